// Work between the products of matrices, each piece in one pass over memory: mixing with the row before, the squared
// ReLU, and the norm of heads with bonus and gate. What parameters get is summed in f32 by column, a block's part at a
// time; whoever launches the kernel adds the parts up, in one order.

// x + (before - x) mix, for up to six mixes of rows [B T, D]. The row before the first one of a sequence, and before one
// that begins anew, is zero.
struct MixArguments {
  int rows, time, width, count;
  const void* x;
  const unsigned char* anew;  // [B T], or null
  const void* mix[6];
  void* out[6];  // outputs, or in the backward pass their gradients
  void* dx;
  float* parts;  // gradients of the mixes, [blocks, count, D]
};

// Every mix there is; of a fixed number, so that what belongs to each stays in registers.
#define EACH_MIX(c)     \
  _Pragma("unroll")     \
  for (int c = 0; c < 6; c++) if (c < args.count)

template <typename T>
__device__ inline float row_before(const MixArguments& args, int row, size_t n) {
  if (row % args.time == 0 || (args.anew && args.anew[row])) return 0.0f;
  return at<T>(args.x, n - args.width);
}

template <typename T>
__device__ inline void mix_forward(const MixArguments& args) {
  const int d = blockIdx.x * 128 + threadIdx.x;
  if (d >= args.width) return;
  float mix[6];
  EACH_MIX(c) mix[c] = at<T>(args.mix[c], d);
  for (int row = blockIdx.y; row < args.rows; row += gridDim.y) {
    const size_t n = static_cast<size_t>(row) * args.width + d;
    const float x = at<T>(args.x, n), delta = row_before<T>(args, row, n) - x;
    EACH_MIX(c) put<T>(args.out[c], n, x + delta * mix[c]);
  }
}

template <typename T>
__device__ inline void mix_backward(const MixArguments& args) {
  const int d = blockIdx.x * 128 + threadIdx.x;
  if (d >= args.width) return;
  float mix[6], sum[6];
  EACH_MIX(c) { mix[c] = at<T>(args.mix[c], d), sum[c] = 0.0f; }
  for (int row = blockIdx.y; row < args.rows; row += gridDim.y) {
    const size_t n = static_cast<size_t>(row) * args.width + d;
    const float delta = row_before<T>(args, row, n) - at<T>(args.x, n);
    const bool handed_on = row % args.time + 1 < args.time && !(args.anew && args.anew[row + 1]);
    float dx = 0.0f;
    EACH_MIX(c) {
      const float g = at<T>(args.out[c], n);
      dx += g * (1.0f - mix[c]);
      if (handed_on) dx += at<T>(args.out[c], n + args.width) * mix[c];
      sum[c] += g * delta;
    }
    put<T>(args.dx, n, dx);
  }
  EACH_MIX(c) args.parts[(blockIdx.y * args.count + c) * args.width + d] = sum[c];
}

// max(x, 0)^2 of n numbers.
struct SquareArguments {
  int n, unused;
  const void *x, *gradient;
  void* out;  // of the forward pass, or the gradient of x
};

template <typename T>
__device__ inline void square_forward(const SquareArguments& args) {
  for (int n = blockIdx.x * 256 + threadIdx.x; n < args.n; n += gridDim.x * 256) {
    const float x = at<T>(args.x, n), positive = x > 0.0f ? x : 0.0f;
    put<T>(args.out, n, positive * positive);
  }
}

template <typename T>
__device__ inline void square_backward(const SquareArguments& args) {
  for (int n = blockIdx.x * 256 + threadIdx.x; n < args.n; n += gridDim.x * 256) {
    const float x = at<T>(args.x, n), positive = x > 0.0f ? x : 0.0f;
    put<T>(args.out, n, 2.0f * positive * at<T>(args.gradient, n));
  }
}

// (norm(y) weight + bias + sum(r k r_k) v) g, the norm and the sum over the 64 lanes of each head. A warp a row and a
// head, two lanes a thread. Rows [B T, H, 64].
struct NormArguments {
  int rows, heads;
  float epsilon, unused;
  const void *y, *r, *k, *v, *g, *weight, *bias, *r_k;
  const void* gradient;
  void* out;
  void *dy, *dr, *dk, *dv, *dg;
  float* parts;  // gradients of weight, bias and r_k, [4 blocks, 3, H, 64]
};

constexpr int kWarps = 4;

// What the forward pass makes of one row and head.
struct Normed {
  float hat[2], mixed[2], strength, slope;
};

template <typename T>
__device__ inline Normed norm_of(const NormArguments& args, size_t n, int column) {
  Normed row;
  const float y[2] = {at<T>(args.y, n), at<T>(args.y, n + 1)};
  const float mean = sum_of_lanes<32>(y[0] + y[1]) / 64.0f;
  const float apart[2] = {y[0] - mean, y[1] - mean};
  const float variance = sum_of_lanes<32>(apart[0] * apart[0] + apart[1] * apart[1]) / 64.0f;
  row.slope = 1.0f / sqrtf(variance + args.epsilon);
  float strength = 0.0f;
  for (int i = 0; i < 2; i++) strength += at<T>(args.r, n + i) * at<T>(args.k, n + i) * at<T>(args.r_k, column + i);
  row.strength = sum_of_lanes<32>(strength);
  for (int i = 0; i < 2; i++) {
    row.hat[i] = apart[i] * row.slope;
    row.mixed[i] = row.hat[i] * at<T>(args.weight, column + i) + at<T>(args.bias, column + i);
    row.mixed[i] += row.strength * at<T>(args.v, n + i);
  }
  return row;
}

template <typename T>
__device__ inline void norm_forward(const NormArguments& args) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = blockIdx.x * 64 + 2 * lane;
  for (int row = blockIdx.y * kWarps + warp; row < args.rows; row += gridDim.y * kWarps) {
    const size_t n = static_cast<size_t>(row) * args.heads * 64 + column;
    const Normed normed = norm_of<T>(args, n, column);
    for (int i = 0; i < 2; i++) put<T>(args.out, n + i, normed.mixed[i] * at<T>(args.g, n + i));
  }
}

template <typename T>
__device__ inline void norm_backward(const NormArguments& args) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = blockIdx.x * 64 + 2 * lane;
  float d_weight[2] = {0.0f, 0.0f}, d_bias[2] = {0.0f, 0.0f}, d_r_k[2] = {0.0f, 0.0f};
  for (int row = blockIdx.y * kWarps + warp; row < args.rows; row += gridDim.y * kWarps) {
    const size_t n = static_cast<size_t>(row) * args.heads * 64 + column;
    const Normed normed = norm_of<T>(args, n, column);
    float mixed[2], hat[2], strength = 0.0f, mean = 0.0f, along = 0.0f;
    for (int i = 0; i < 2; i++) {
      const float gradient = at<T>(args.gradient, n + i);
      mixed[i] = gradient * at<T>(args.g, n + i);
      put<T>(args.dg, n + i, gradient * normed.mixed[i]);
      strength += mixed[i] * at<T>(args.v, n + i);
      hat[i] = mixed[i] * at<T>(args.weight, column + i);
      mean += hat[i];
      along += hat[i] * normed.hat[i];
      d_weight[i] += mixed[i] * normed.hat[i];
      d_bias[i] += mixed[i];
    }
    strength = sum_of_lanes<32>(strength);
    mean = sum_of_lanes<32>(mean) / 64.0f, along = sum_of_lanes<32>(along) / 64.0f;
    for (int i = 0; i < 2; i++) {
      const float r = at<T>(args.r, n + i), k = at<T>(args.k, n + i), r_k = at<T>(args.r_k, column + i);
      put<T>(args.dy, n + i, normed.slope * (hat[i] - mean - normed.hat[i] * along));
      put<T>(args.dr, n + i, strength * k * r_k);
      put<T>(args.dk, n + i, strength * r * r_k);
      put<T>(args.dv, n + i, mixed[i] * normed.strength);
      d_r_k[i] += strength * r * k;
    }
  }
  float* parts = args.parts + static_cast<size_t>(blockIdx.y * kWarps + warp) * 3 * args.heads * 64 + column;
  for (int i = 0; i < 2; i++) {
    parts[i] = d_weight[i], parts[args.heads * 64 + i] = d_bias[i], parts[2 * args.heads * 64 + i] = d_r_k[i];
  }
}

#define FUSED(name, T)                                                       \
  KERNEL(128, mix_forward_##name, MixArguments) { mix_forward<T>(args); }    \
  KERNEL(128, mix_backward_##name, MixArguments) { mix_backward<T>(args); }  \
  KERNEL(256, square_forward_##name, SquareArguments) { square_forward<T>(args); }   \
  KERNEL(256, square_backward_##name, SquareArguments) { square_backward<T>(args); } \
  KERNEL(128, norm_forward_##name, NormArguments) { norm_forward<T>(args); }   \
  KERNEL(128, norm_backward_##name, NormArguments) { norm_backward<T>(args); }

FUSED(f32, float)
FUSED(bf16, bf16)
