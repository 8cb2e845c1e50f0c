// Work on hundreds of small arrays in a few launches: AdamW, sums of squares, and copies in another kind of number.
// Arrays stand in a list among the arguments; each has blocks of its own, of so many numbers.

constexpr int kNumbersOfBlock = 4096;

// Which entry of a list this block works on.
template <typename Arguments>
__device__ inline int entry_of_block(const Arguments& args) {
  const int block = blockIdx.x;
  int which = 0;
  while (which + 1 < args.count && args.of[which + 1].block <= block) which++;
  return which;
}

// This block's numbers of an array that begins at `block` and holds `n`.
struct Part {
  int begin, end;
};
__device__ inline Part part_of(int block, int n) {
  const int begin = (static_cast<int>(blockIdx.x) - block) * kNumbersOfBlock;
  return {begin + static_cast<int>(threadIdx.x), min(begin + kNumbersOfBlock, n)};
}

// One update of f32 parameters.
struct Updated {
  float *parameter, *first, *second;
  const float* gradient;
  int n, block;      // how many numbers; the block that begins with the first of them
  float keep, rate;  // what decay leaves of a number; the rate over the first moment's correction
};

struct AdamArguments {
  int count;
  float beta1, beta2, epsilon;
  float factor;             // of the gradient
  float second_correction;  // of the second moment
  Updated of[64];
};

KERNEL_OF_LIST(256, adamw, AdamArguments) {
  const Updated& it = args.of[entry_of_block(args)];
  const Part part = part_of(it.block, it.n);
  for (int n = part.begin; n < part.end; n += 256) {
    const float g = it.gradient[n] * args.factor;
    const float first = it.first[n] + (1.0f - args.beta1) * (g - it.first[n]);
    const float second = it.second[n] + (1.0f - args.beta2) * (g * g - it.second[n]);
    const float root = sqrtf(second / args.second_correction) + args.epsilon;
    it.first[n] = first, it.second[n] = second;
    it.parameter[n] = it.parameter[n] * it.keep - first / root * it.rate;
  }
}

// One array, and where it goes.
struct Listed {
  const void* from;
  void* to;
  int n, block;
};

struct ListArguments {
  int count, unused;
  float* sums;  // of squares, one a block
  Listed of[128];
};

KERNEL_OF_LIST(256, squares, ListArguments) {
  const Listed& it = args.of[entry_of_block(args)];
  const Part part = part_of(it.block, it.n);
  float sum = 0.0f;
  for (int n = part.begin; n < part.end; n += 256) {
    const float x = at<float>(it.from, n);
    sum += x * x;
  }
  sum = sum_of_lanes<32>(sum);
  __shared__ float warps[8];
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    float all = 0.0f;
    for (int warp = 0; warp < 8; warp++) all += warps[warp];
    args.sums[blockIdx.x] = all;
  }
}

template <typename From, typename To>
__device__ inline void copy(const ListArguments& args) {
  const Listed& it = args.of[entry_of_block(args)];
  const Part part = part_of(it.block, it.n);
  for (int n = part.begin; n < part.end; n += 256) put<To>(it.to, n, at<From>(it.from, n));
}

KERNEL_OF_LIST(256, copy_to_bf16, ListArguments) { copy<float, bf16>(args); }
KERNEL_OF_LIST(256, copy_to_f32, ListArguments) { copy<bf16, float>(args); }
