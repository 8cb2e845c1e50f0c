// What the WKV operator takes, from what the products of matrices give: decay, key, value and the two vectors that edit
// the state, in one pass over memory. A warp a row and a head, two lanes a thread. Rows [B T, H, 64]; the formulas stand
// in src/model/fused/terms.rs.

struct TermsArguments {
  int rows, heads;
  const void *w, *k, *a, *k_k, *k_a;
  const void *v, *towards, *first;  // null in the first layer, whose value is its own
  void *out_w, *out_k, *out_away, *out_back, *out_v;  // results, or in the backward pass their gradients
  void *dw, *dk, *da, *dv, *d_towards, *d_first;
  float* parts;  // gradients of k_k and k_a, [4 blocks, 2, H, 64]
};

constexpr int kWarps = 4;
constexpr float kLeastNorm = 1e-12f;

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// The parameters of a head.
struct Column {
  float k_k[2], k_a[2];
};
template <typename T>
__device__ inline Column column_at(const TermsArguments& args, int n) {
  Column column;
  load_pair<T>(args.k_k, n, column.k_k), load_pair<T>(args.k_a, n, column.k_a);
  return column;
}

// What a row and head holds, two lanes a thread. All loads are on their way before the first one is waited for.
struct Row {
  float w[2], k[2], a[2], v[2], towards[2], first[2];
};
template <typename T>
__device__ inline Row row_at(const TermsArguments& args, size_t n) {
  Row row;
  load_pair<T>(args.w, n, row.w), load_pair<T>(args.k, n, row.k), load_pair<T>(args.a, n, row.a);
  if (args.v) {
    load_pair<T>(args.v, n, row.v), load_pair<T>(args.towards, n, row.towards), load_pair<T>(args.first, n, row.first);
  }
  return row;
}

// A row and head of the key: its direction and what that was divided by, and the rate of learning.
struct Key {
  float rate[2], direction[2], divisor;
  bool has_direction;
};
__device__ inline Key key_of(const Row& row, const Column& column) {
  Key key;
  float square = 0.0f;
#pragma unroll
  for (int i = 0; i < 2; i++) {
    key.rate[i] = sigmoid(row.a[i]);
    key.direction[i] = row.k[i] * column.k_k[i];
    square += key.direction[i] * key.direction[i];
  }
  const float length = sqrtf(sum_of_lanes<32>(square));
  // A length that is not a number stays so.
  key.has_direction = !(length < kLeastNorm);
  key.divisor = key.has_direction ? length : kLeastNorm;
#pragma unroll
  for (int i = 0; i < 2; i++) key.direction[i] /= key.divisor;
  return key;
}

template <typename T>
__device__ inline void terms_forward(const TermsArguments& args) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * 64 + 2 * lane;
  const Column column = column_at<T>(args, first);
  for (int t = blockIdx.y * kWarps + warp; t < args.rows; t += gridDim.y * kWarps) {
    const size_t n = static_cast<size_t>(t) * args.heads * 64 + first;
    const Row row = row_at<T>(args, n);
    const Key key = key_of(row, column);
    float w[2], k[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      w[i] = fminf(row.w[i], 0.0f) - log1pf(expf(-fabsf(row.w[i]))) - 0.5f;
      k[i] = row.k[i] * (1.0f - column.k_a[i] + key.rate[i] * column.k_a[i]);
    }
    put_pair<T>(args.out_w, n, w[0], w[1]), put_pair<T>(args.out_k, n, k[0], k[1]);
    put_pair<T>(args.out_away, n, -key.direction[0], -key.direction[1]);
    put_pair<T>(args.out_back, n, key.direction[0] * key.rate[0], key.direction[1] * key.rate[1]);
    if (args.v) {
      const float share[2] = {sigmoid(row.towards[0]), sigmoid(row.towards[1])};
      put_pair<T>(args.out_v, n, row.v[0] + (row.first[0] - row.v[0]) * share[0],
                  row.v[1] + (row.first[1] - row.v[1]) * share[1]);
    }
  }
}

template <typename T>
__device__ inline void terms_backward(const TermsArguments& args) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = blockIdx.x * 64 + 2 * lane;
  const Column column = column_at<T>(args, first);
  float d_k_k[2] = {0.0f, 0.0f}, d_k_a[2] = {0.0f, 0.0f};
  for (int t = blockIdx.y * kWarps + warp; t < args.rows; t += gridDim.y * kWarps) {
    const size_t n = static_cast<size_t>(t) * args.heads * 64 + first;
    float dw[2], dk[2], away[2], back[2], dv[2];
    load_pair<T>(args.out_w, n, dw), load_pair<T>(args.out_k, n, dk);
    load_pair<T>(args.out_away, n, away), load_pair<T>(args.out_back, n, back);
    if (args.v) load_pair<T>(args.out_v, n, dv);
    const Row row = row_at<T>(args, n);
    const Key key = key_of(row, column);
    float d_direction[2], along = 0.0f;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      d_direction[i] = back[i] * key.rate[i] - away[i];
      along += key.direction[i] * d_direction[i];
    }
    // The length is always one, so only what turns the direction goes on.
    along = sum_of_lanes<32>(along);
    if (!key.has_direction) along = 0.0f;
    float raw_w[2], raw_k[2], raw_a[2], raw_v[2], raw_towards[2], raw_first[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const float rate = key.rate[i], d_long = (d_direction[i] - key.direction[i] * along) / key.divisor;
      raw_w[i] = dw[i] * sigmoid(-row.w[i]);
      raw_k[i] = d_long * column.k_k[i] + dk[i] * (1.0f - column.k_a[i] + rate * column.k_a[i]);
      raw_a[i] = (back[i] * key.direction[i] + dk[i] * row.k[i] * column.k_a[i]) * rate * (1.0f - rate);
      d_k_k[i] += d_long * row.k[i];
      d_k_a[i] += dk[i] * row.k[i] * (rate - 1.0f);
      if (args.v) {
        const float share = sigmoid(row.towards[i]);
        raw_v[i] = dv[i] * (1.0f - share), raw_first[i] = dv[i] * share;
        raw_towards[i] = dv[i] * (row.first[i] - row.v[i]) * share * (1.0f - share);
      }
    }
    put_pair<T>(args.dw, n, raw_w[0], raw_w[1]), put_pair<T>(args.dk, n, raw_k[0], raw_k[1]);
    put_pair<T>(args.da, n, raw_a[0], raw_a[1]);
    if (args.v) {
      put_pair<T>(args.dv, n, raw_v[0], raw_v[1]), put_pair<T>(args.d_first, n, raw_first[0], raw_first[1]);
      put_pair<T>(args.d_towards, n, raw_towards[0], raw_towards[1]);
    }
  }
  float* parts = args.parts + static_cast<size_t>(blockIdx.y * kWarps + warp) * 2 * args.heads * 64 + first;
#pragma unroll
  for (int i = 0; i < 2; i++) parts[i] = d_k_k[i], parts[args.heads * 64 + i] = d_k_a[i];
}

#define TERMS(name, T)                                                            \
  KERNEL(128, terms_forward_##name, TermsArguments) { terms_forward<T>(args); }   \
  KERNEL(128, terms_backward_##name, TermsArguments) { terms_backward<T>(args); }

TERMS(f32, float)
TERMS(bf16, bf16)
