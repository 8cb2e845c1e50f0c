// Cross-entropy of a piece of logits with the penalty on the largest one, and the gradient in the place of the logits. A
// block a row, which stays in the caches between the three passes over it. src/loss.rs says what the weights are.

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

template <typename T>
__device__ inline void loss(const LossArguments& args) {
  __shared__ Found greatest[kThreads / 32];
  __shared__ float summed[kThreads / 32];
  for (int row = blockIdx.x; row < args.rows; row += gridDim.x) {
    T* logits = static_cast<T*>(args.logits) + static_cast<size_t>(row) * args.width;
    const long long label = args.labels[row];
    const bool is_target = label >= 0;
    Found most = {__uint_as_float(0xff800000u), 3.0e38f};
    for (int n = threadIdx.x; n < args.width; n += kThreads) {
      most = greater(most, Found{wide(logits[n]), static_cast<float>(n)});
    }
    most = greatest_of_block(most, greatest);
    float sum = 0.0f;
    for (int n = threadIdx.x; n < args.width; n += kThreads) sum += expf(wide(logits[n]) - most.value);
    sum = sum_of_block(sum, summed);
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
    for (int n = threadIdx.x; n < args.width; n += kThreads) {
      float gradient = is_target ? expf(wide(logits[n]) - most.value) * factor : 0.0f;
      if (n == label) gradient -= args.weight;
      if (static_cast<float>(n) == most.place) gradient += penalty;
      logits[n] = narrow<T>(gradient);
    }
  }
}

KERNEL(kThreads, loss_f32, LossArguments) { loss<float>(args); }
KERNEL(kThreads, loss_bf16, LossArguments) { loss<bf16>(args); }
