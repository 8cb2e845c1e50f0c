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

// Whether a row sees the one before it.
__device__ inline bool continues(const MixArguments& args, int row) {
  return row % args.time != 0 && !(args.anew && args.anew[row]);
}

// The rows of a block, one after the other: what a row shares with its neighbour stays in registers.
struct Strip {
  int begin, end;
};
__device__ inline Strip strip_of(const MixArguments& args) {
  const int each = (args.rows + gridDim.y - 1) / gridDim.y, begin = min(static_cast<int>(blockIdx.y) * each, args.rows);
  return {begin, min(begin + each, args.rows)};
}

// Rows whose loads are on their way together.
constexpr int kTogether = 4;

template <typename T, int Count>
__device__ inline void mix_forward(const MixArguments& args) {
  const int d = 2 * (blockIdx.x * 64 + threadIdx.x);
  if (d >= args.width) return;
  const Strip strip = strip_of(args);
  float mix[Count][2], before[2] = {0.0f, 0.0f};
#pragma unroll
  for (int c = 0; c < Count; c++) load_pair<T>(args.mix[c], d, mix[c]);
  const size_t width = args.width;
  if (strip.begin < strip.end && continues(args, strip.begin)) load_pair<T>(args.x, (strip.begin - 1) * width + d, before);
  for (int first = strip.begin; first < strip.end; first += kTogether) {
    float x[kTogether][2];
#pragma unroll
    for (int i = 0; i < kTogether; i++) load_pair<T>(args.x, min(first + i, strip.end - 1) * width + d, x[i]);
#pragma unroll
    for (int i = 0; i < kTogether; i++) {
      const int row = first + i;
      if (row >= strip.end) break;
      if (!continues(args, row)) before[0] = before[1] = 0.0f;
#pragma unroll
      for (int c = 0; c < Count; c++) {
        put_pair<T>(args.out[c], row * width + d, x[i][0] + (before[0] - x[i][0]) * mix[c][0],
                    x[i][1] + (before[1] - x[i][1]) * mix[c][1]);
      }
      before[0] = x[i][0], before[1] = x[i][1];
    }
  }
}

template <typename T, int Count>
__device__ inline void mix_backward(const MixArguments& args) {
  const int d = 2 * (blockIdx.x * 64 + threadIdx.x);
  if (d >= args.width) return;
  const Strip strip = strip_of(args);
  const size_t width = args.width;
  float mix[Count][2], sum[Count][2], after[Count][2], x[2] = {0.0f, 0.0f};
  // Whether the row after the one at hand sees it.
  bool seen = strip.end < args.rows && strip.begin < strip.end && continues(args, strip.end);
#pragma unroll
  for (int c = 0; c < Count; c++) {
    load_pair<T>(args.mix[c], d, mix[c]);
    sum[c][0] = sum[c][1] = after[c][0] = after[c][1] = 0.0f;
    if (seen) load_pair<T>(args.out[c], strip.end * width + d, after[c]);
  }
  if (strip.begin < strip.end) load_pair<T>(args.x, (strip.end - 1) * width + d, x);
  for (int row = strip.end - 1; row >= strip.begin; row--) {
    float g[Count][2], before[2];
#pragma unroll
    for (int c = 0; c < Count; c++) load_pair<T>(args.out[c], row * width + d, g[c]);
    load_pair<T>(args.x, max(row - 1, 0) * width + d, before);
    const bool sees = continues(args, row);
    float dx[2] = {0.0f, 0.0f};
#pragma unroll
    for (int c = 0; c < Count; c++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        dx[i] += g[c][i] * (1.0f - mix[c][i]);
        if (seen) dx[i] += after[c][i] * mix[c][i];
        sum[c][i] += g[c][i] * ((sees ? before[i] : 0.0f) - x[i]);
        after[c][i] = g[c][i];
      }
    }
    put_pair<T>(args.dx, row * width + d, dx[0], dx[1]);
    x[0] = before[0], x[1] = before[1], seen = sees;
  }
#pragma unroll
  for (int c = 0; c < Count; c++) {
    float* part = args.parts + (blockIdx.y * Count + c) * width + d;
    part[0] = sum[c][0], part[1] = sum[c][1];
  }
}

// As many mixes as the model has of them: of a fixed number, so that what belongs to each stays in registers.
template <typename T>
__device__ inline void mix_forward(const MixArguments& args) {
  args.count == 6 ? mix_forward<T, 6>(args) : mix_forward<T, 1>(args);
}
template <typename T>
__device__ inline void mix_backward(const MixArguments& args) {
  args.count == 6 ? mix_backward<T, 6>(args) : mix_backward<T, 1>(args);
}

// max(x, 0)^2 of n numbers. What is not a number stays so.
__device__ inline float positive(float x) { return x < 0.0f ? 0.0f : x; }

struct SquareArguments {
  int n, unused;
  const void *x, *gradient;
  void* out;  // of the forward pass, or the gradient of x
};

constexpr int kEach = 8;  // numbers of a thread at a time

template <typename T>
__device__ inline void square_forward(const SquareArguments& args) {
  const int whole = args.n / kEach * kEach;
  for (int n = (blockIdx.x * 256 + threadIdx.x) * kEach; n < whole; n += gridDim.x * 256 * kEach) {
    float x[kEach];
    load_each<T>(args.x, n, x);
#pragma unroll
    for (int i = 0; i < kEach; i++) x[i] = positive(x[i]) * positive(x[i]);
    store_each<T>(args.out, n, x);
  }
  const int n = whole + threadIdx.x;
  if (blockIdx.x == 0 && n < args.n) {
    const float x = positive(at<T>(args.x, n));
    put<T>(args.out, n, x * x);
  }
}

template <typename T>
__device__ inline void square_backward(const SquareArguments& args) {
  const int whole = args.n / kEach * kEach;
  for (int n = (blockIdx.x * 256 + threadIdx.x) * kEach; n < whole; n += gridDim.x * 256 * kEach) {
    float x[kEach], g[kEach];
    load_each<T>(args.x, n, x), load_each<T>(args.gradient, n, g);
#pragma unroll
    for (int i = 0; i < kEach; i++) x[i] = 2.0f * positive(x[i]) * g[i];
    store_each<T>(args.out, n, x);
  }
  const int n = whole + threadIdx.x;
  if (blockIdx.x == 0 && n < args.n) put<T>(args.out, n, 2.0f * positive(at<T>(args.x, n)) * at<T>(args.gradient, n));
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

// What a row and head holds, two lanes a thread. All loads are on their way before the first one is waited for.
struct Row {
  float y[2], r[2], k[2], v[2], g[2];
};
template <typename T>
__device__ inline Row row_at(const NormArguments& args, size_t n) {
  Row row;
  load_pair<T>(args.y, n, row.y), load_pair<T>(args.r, n, row.r), load_pair<T>(args.k, n, row.k);
  load_pair<T>(args.v, n, row.v), load_pair<T>(args.g, n, row.g);
  return row;
}

// The parameters of a head.
struct Column {
  float weight[2], bias[2], r_k[2];
};
template <typename T>
__device__ inline Column column_at(const NormArguments& args, int n) {
  Column column;
  load_pair<T>(args.weight, n, column.weight), load_pair<T>(args.bias, n, column.bias);
  load_pair<T>(args.r_k, n, column.r_k);
  return column;
}

// What the forward pass makes of one row and head.
struct Normed {
  float hat[2], mixed[2], strength, slope;
};
__device__ inline Normed norm_of(const Row& row, const Column& column, float epsilon) {
  Normed normed;
  const float mean = sum_of_lanes<32>(row.y[0] + row.y[1]) / 64.0f;
  const float apart[2] = {row.y[0] - mean, row.y[1] - mean};
  const float variance = sum_of_lanes<32>(apart[0] * apart[0] + apart[1] * apart[1]) / 64.0f;
  normed.slope = 1.0f / sqrtf(variance + epsilon);
  normed.strength = sum_of_lanes<32>(row.r[0] * row.k[0] * column.r_k[0] + row.r[1] * row.k[1] * column.r_k[1]);
#pragma unroll
  for (int i = 0; i < 2; i++) {
    normed.hat[i] = apart[i] * normed.slope;
    normed.mixed[i] = normed.hat[i] * column.weight[i] + column.bias[i] + normed.strength * row.v[i];
  }
  return normed;
}

template <typename T>
__device__ inline void norm_forward(const NormArguments& args) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * 64 + 2 * lane;
  const Column column = column_at<T>(args, first);
  for (int t = blockIdx.y * kWarps + warp; t < args.rows; t += gridDim.y * kWarps) {
    const size_t n = static_cast<size_t>(t) * args.heads * 64 + first;
    const Row row = row_at<T>(args, n);
    const Normed normed = norm_of(row, column, args.epsilon);
    put_pair<T>(args.out, n, normed.mixed[0] * row.g[0], normed.mixed[1] * row.g[1]);
  }
}

template <typename T>
__device__ inline void norm_backward(const NormArguments& args) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * 64 + 2 * lane;
  const Column column = column_at<T>(args, first);
  float d_weight[2] = {0.0f, 0.0f}, d_bias[2] = {0.0f, 0.0f}, d_r_k[2] = {0.0f, 0.0f};
  for (int t = blockIdx.y * kWarps + warp; t < args.rows; t += gridDim.y * kWarps) {
    const size_t n = static_cast<size_t>(t) * args.heads * 64 + first;
    float gradient[2];
    load_pair<T>(args.gradient, n, gradient);
    const Row row = row_at<T>(args, n);
    const Normed normed = norm_of(row, column, args.epsilon);
    float mixed[2], hat[2], strength = 0.0f, mean = 0.0f, along = 0.0f;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      mixed[i] = gradient[i] * row.g[i];
      strength += mixed[i] * row.v[i];
      hat[i] = mixed[i] * column.weight[i];
      mean += hat[i];
      along += hat[i] * normed.hat[i];
      d_weight[i] += mixed[i] * normed.hat[i];
      d_bias[i] += mixed[i];
    }
    strength = sum_of_lanes<32>(strength);
    mean = sum_of_lanes<32>(mean) / 64.0f, along = sum_of_lanes<32>(along) / 64.0f;
    float dy[2], dr[2], dk[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      dy[i] = normed.slope * (hat[i] - mean - normed.hat[i] * along);
      dr[i] = strength * row.k[i] * column.r_k[i], dk[i] = strength * row.r[i] * column.r_k[i];
      d_r_k[i] += strength * row.r[i] * row.k[i];
    }
    put_pair<T>(args.dy, n, dy[0], dy[1]), put_pair<T>(args.dr, n, dr[0], dr[1]);
    put_pair<T>(args.dk, n, dk[0], dk[1]);
    put_pair<T>(args.dv, n, mixed[0] * normed.strength, mixed[1] * normed.strength);
    put_pair<T>(args.dg, n, gradient[0] * normed.mixed[0], gradient[1] * normed.mixed[1]);
  }
  float* parts = args.parts + static_cast<size_t>(blockIdx.y * kWarps + warp) * 3 * args.heads * 64 + first;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    parts[i] = d_weight[i], parts[args.heads * 64 + i] = d_bias[i], parts[2 * args.heads * 64 + i] = d_r_k[i];
  }
}

#define FUSED(name, T)                                                               \
  KERNEL(64, mix_forward_##name, MixArguments) { mix_forward<T>(args); }             \
  KERNEL(64, mix_backward_##name, MixArguments) { mix_backward<T>(args); }           \
  KERNEL(256, square_forward_##name, SquareArguments) { square_forward<T>(args); }   \
  KERNEL(256, square_backward_##name, SquareArguments) { square_backward<T>(args); } \
  KERNEL(128, norm_forward_##name, NormArguments) { norm_forward<T>(args); }         \
  KERNEL(128, norm_backward_##name, NormArguments) { norm_backward<T>(args); }

FUSED(f32, float)
FUSED(bf16, bf16)
