// Cross-entropy of a piece of logits with the penalty on the largest one, and the gradient in the place of the logits. A
// block a row, which is read twice: the second time it is in the caches. src/loss.rs says what the weights are.

struct LossArguments {
  int rows, width;
  float weight, penalty;
  int penalty_everywhere, unused;
  void* logits;             // [N, V]
  const long long* labels;  // [N]; negative where there is no target
  float* sums;              // [N, 2]: cross-entropy and the largest logit squared, zero where there is no target
};

constexpr int kThreads = 256;

// A logit and where it is.
struct Found {
  float value, place;
};

// The greater one, of equals the first.
__device__ inline Found greater(Found x, Found y) {
  const bool other = y.value > x.value || (y.value == x.value && y.place < x.place);
  return other ? y : x;
}

// Neighbouring numbers that a thread takes at a time: eight where rows begin at multiples of 16 bytes, else one.
template <typename T>
__device__ inline void load_each(const void* from, size_t n, float (&x)[1]) {
  x[0] = at<T>(from, n);
}
template <typename T>
__device__ inline void store_each(void* to, size_t n, const float (&x)[1]) {
  put<T>(to, n, x[0]);
}

// Over all threads of the block, in each of them. `room` has a place a warp.
__device__ inline Found greatest_of_block(Found x, Found* room) {
  for (int step = 1; step < 32; step *= 2) {
    const Found other = {__shfl_xor_sync(0xffffffffu, x.value, step), __shfl_xor_sync(0xffffffffu, x.place, step)};
    x = greater(x, other);
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
  __syncthreads();
  for (int warp = 0; warp < kThreads / 32; warp++) x = greater(x, room[warp]);
  return x;
}
__device__ inline float sum_of_block(float x, float* room) {
  x = sum_of_lanes<32>(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0.0f;
  for (int warp = 0; warp < kThreads / 32; warp++) sum += room[warp];
  return sum;
}

template <typename T, int Count>
__device__ inline void loss_by(const LossArguments& args) {
  __shared__ Found greatest[kThreads / 32];
  __shared__ float summed[kThreads / 32];
  for (int row = blockIdx.x; row < args.rows; row += gridDim.x) {
    T* logits = static_cast<T*>(args.logits) + static_cast<size_t>(row) * args.width;
    const long long label = args.labels[row];
    const bool is_target = label >= 0;
    // The largest of a thread's numbers so far, and the sum of exp(x - largest) over them.
    Found most = {__uint_as_float(0xff800000u), 3.0e38f};
    float sum = 0.0f;
    for (int n = threadIdx.x * Count; n < args.width; n += kThreads * Count) {
      float x[Count];
      load_each<T>(logits, n, x);
      const float before = most.value;
      for (int i = 0; i < Count; i++) most = greater(most, Found{x[i], static_cast<float>(n + i)});
      if (most.value != before) sum *= expf(before - most.value);
      for (int i = 0; i < Count; i++) sum += expf(x[i] - most.value);
    }
    const float own = most.value;
    most = greatest_of_block(most, greatest);
    // A thread without numbers has a sum of zero, and a largest one of minus infinity.
    sum = sum_of_block(sum > 0.0f ? sum * expf(own - most.value) : sum, summed);
    if (threadIdx.x == 0) {
      // A label that the vocabulary does not have makes the loss no number.
      const float picked = is_target && label < args.width ? wide(logits[label]) : __uint_as_float(0x7fc00000u);
      args.sums[2 * row] = is_target ? most.value + logf(sum) - picked : 0.0f;
      args.sums[2 * row + 1] = is_target ? most.value * most.value : 0.0f;
    }
    // The target's logit was read.
    __syncthreads();
    const float factor = is_target ? args.weight / sum : 0.0f;
    const float penalty = is_target || args.penalty_everywhere ? args.penalty * most.value : 0.0f;
    for (int n = threadIdx.x * Count; n < args.width; n += kThreads * Count) {
      float x[Count];
      load_each<T>(logits, n, x);
      for (int i = 0; i < Count; i++) {
        float gradient = is_target ? expf(x[i] - most.value) * factor : 0.0f;
        if (n + i == label) gradient -= args.weight;
        if (static_cast<float>(n + i) == most.place) gradient += penalty;
        x[i] = gradient;
      }
      store_each<T>(logits, n, x);
    }
  }
}

template <typename T>
__device__ inline void loss(const LossArguments& args) {
  if (args.width % 8 == 0) {
    loss_by<T, 8>(args);
  } else {
    loss_by<T, 1>(args);
  }
}

KERNEL(kThreads, loss_f32, LossArguments) { loss<float>(args); }
KERNEL(kThreads, loss_bf16, LossArguments) { loss<bf16>(args); }
