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

// A row and head of the key: as it was, its direction and what that was divided by, and the rate of learning.
struct Key {
  float raw[2], k_k[2], k_a[2], rate[2], direction[2], divisor;
  bool has_direction;
};

template <typename T>
__device__ inline Key key_of(const TermsArguments& args, size_t n, int column) {
  Key key;
  float square = 0.0f;
  for (int i = 0; i < 2; i++) {
    key.raw[i] = at<T>(args.k, n + i), key.rate[i] = sigmoid(at<T>(args.a, n + i));
    key.k_k[i] = at<T>(args.k_k, column + i), key.k_a[i] = at<T>(args.k_a, column + i);
    key.direction[i] = key.raw[i] * key.k_k[i];
    square += key.direction[i] * key.direction[i];
  }
  const float length = sqrtf(sum_of_lanes<32>(square));
  // A length that is not a number stays so.
  key.has_direction = !(length < kLeastNorm);
  key.divisor = key.has_direction ? length : kLeastNorm;
  for (int i = 0; i < 2; i++) key.direction[i] /= key.divisor;
  return key;
}

template <typename T>
__device__ inline void terms_forward(const TermsArguments& args) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = blockIdx.x * 64 + 2 * lane;
  for (int row = blockIdx.y * kWarps + warp; row < args.rows; row += gridDim.y * kWarps) {
    const size_t n = static_cast<size_t>(row) * args.heads * 64 + column;
    const Key key = key_of<T>(args, n, column);
    for (int i = 0; i < 2; i++) {
      const float w = at<T>(args.w, n + i);
      put<T>(args.out_w, n + i, fminf(w, 0.0f) - log1pf(expf(-fabsf(w))) - 0.5f);
      put<T>(args.out_k, n + i, key.raw[i] * (1.0f - key.k_a[i] + key.rate[i] * key.k_a[i]));
      put<T>(args.out_away, n + i, -key.direction[i]);
      put<T>(args.out_back, n + i, key.direction[i] * key.rate[i]);
      if (args.v) {
        const float v = at<T>(args.v, n + i), share = sigmoid(at<T>(args.towards, n + i));
        put<T>(args.out_v, n + i, v + (at<T>(args.first, n + i) - v) * share);
      }
    }
  }
}

template <typename T>
__device__ inline void terms_backward(const TermsArguments& args) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, column = blockIdx.x * 64 + 2 * lane;
  float d_k_k[2] = {0.0f, 0.0f}, d_k_a[2] = {0.0f, 0.0f};
  for (int row = blockIdx.y * kWarps + warp; row < args.rows; row += gridDim.y * kWarps) {
    const size_t n = static_cast<size_t>(row) * args.heads * 64 + column;
    const Key key = key_of<T>(args, n, column);
    float d_direction[2], back[2], along = 0.0f;
    for (int i = 0; i < 2; i++) {
      back[i] = at<T>(args.out_back, n + i);
      d_direction[i] = back[i] * key.rate[i] - at<T>(args.out_away, n + i);
      along += key.direction[i] * d_direction[i];
    }
    // The length is always one, so only what turns the direction goes on.
    along = sum_of_lanes<32>(along);
    if (!key.has_direction) along = 0.0f;
    for (int i = 0; i < 2; i++) {
      const float dk = at<T>(args.out_k, n + i), rate = key.rate[i];
      const float d_long = (d_direction[i] - key.direction[i] * along) / key.divisor;
      put<T>(args.dw, n + i, at<T>(args.out_w, n + i) * sigmoid(-at<T>(args.w, n + i)));
      put<T>(args.dk, n + i, d_long * key.k_k[i] + dk * (1.0f - key.k_a[i] + rate * key.k_a[i]));
      const float d_rate = back[i] * key.direction[i] + dk * key.raw[i] * key.k_a[i];
      put<T>(args.da, n + i, d_rate * rate * (1.0f - rate));
      d_k_k[i] += d_long * key.raw[i];
      d_k_a[i] += dk * key.raw[i] * (rate - 1.0f);
      if (args.v) {
        const float v = at<T>(args.v, n + i), first = at<T>(args.first, n + i);
        const float share = sigmoid(at<T>(args.towards, n + i)), gradient = at<T>(args.out_v, n + i);
        put<T>(args.dv, n + i, gradient * (1.0f - share));
        put<T>(args.d_towards, n + i, gradient * (first - v) * share * (1.0f - share));
        put<T>(args.d_first, n + i, gradient * share);
      }
    }
  }
  float* parts = args.parts + static_cast<size_t>(blockIdx.y * kWarps + warp) * 2 * args.heads * 64 + column;
  for (int i = 0; i < 2; i++) parts[i] = d_k_k[i], parts[args.heads * 64 + i] = d_k_a[i];
}

#define TERMS(name, T)                                                            \
  KERNEL(128, terms_forward_##name, TermsArguments) { terms_forward<T>(args); }   \
  KERNEL(128, terms_backward_##name, TermsArguments) { terms_backward<T>(args); }

TERMS(f32, float)
TERMS(bf16, bf16)
