// The WKV-7 operator, one step after the other: right for any decay, and what the chunked kernel is compared with.
//
// One block a (sequence, head). P neighbouring threads share a row of the state in the forward pass, and a row or a
// column in the backward pass; thread part p has the elements p, p + P, p + 2P, ... Rows (value lanes) do not need each
// other in the forward pass, so a block waits for itself only where inputs come in, 16 steps at a time.
//
// Backward, 16 steps at a time from the last ones:
//   1. rows of G, downwards:    G += dy r^T;  dv = G k,  ds = G b;  G = G diag(d) + ds a^T
//   2. columns of G, the same:  dk = G^T v,  db = G^T s
//   3. columns of S, upwards from the state kept before these steps:  da = S^T ds;  S = S diag(d) + s b^T + v k^T;  dr = S^T dy
//   4. the decay, upwards, from m = the sum of S G over the value lanes before these steps:
//      l_t = d_t dd_t = m - (a da)_t;  m = l_t - (r dr - k dk - b db)_t
// Nothing is divided by a decay, so one of zero, which makes the state forget, is as good as any other.

struct Arguments {
  int time, heads;
  const void *r, *w, *k, *v, *a, *b, *dy;
  const float* s0;       // [B, H, N, N], or null for zeros
  float* state;          // after the last step; in the forward pass only
  float* removed;        // s of every step, [B, T, H, N], or null
  float* border;         // the state before each 16 steps, [B, H, chunks, N, N], or null
  const float* d_state;  // or null for zeros
  void* y;
  void *dr, *dw, *dk, *dv, *da, *db;
  float* ds0;
};

constexpr int kSteps = 16;

template <typename T, int N, int P>
struct Recurrence {
  static constexpr int kThreads = N * P;
  static constexpr int kParts = N / P;
  static constexpr int kRows = kSteps * N;

  struct Inside {
    float r[kRows], d[kRows], k[kRows], v[kRows], a[kRows], b[kRows];
  };
  struct Back : Inside {
    float slope[kRows], dy[kRows], s[kRows], ds[kRows], dr[kRows], dk[kRows], da[kRows], db[kRows];
  };

  __device__ static size_t place(const Arguments& args, int t, int lane) {
    return ((static_cast<size_t>(blockIdx.y) * args.time + t) * args.heads + blockIdx.x) * N + lane;
  }
  __device__ static size_t head(const Arguments& args) {
    return static_cast<size_t>(blockIdx.y) * args.heads + blockIdx.x;
  }
  __device__ static float read(const void* from, size_t at) { return wide(static_cast<const T*>(from)[at]); }
  __device__ static void write(void* to, size_t at, float x) { static_cast<T*>(to)[at] = narrow<T>(x); }

  __device__ static void forward(const Arguments& args, Inside& in) {
    const int i = threadIdx.x / P, p = threadIdx.x % P;
    const size_t chunks = (args.time + kSteps - 1) / kSteps;
    float state[kParts];
#pragma unroll
    for (int e = 0; e < kParts; e++) state[e] = args.s0 ? args.s0[(head(args) * N + i) * N + e * P + p] : 0.0f;

    for (int start = 0; start < args.time; start += kSteps) {
      const int length = min(kSteps, args.time - start);
      if (args.border) {
        float* border = args.border + ((head(args) * chunks + start / kSteps) * N + i) * N + p;
#pragma unroll
        for (int e = 0; e < kParts; e++) border[e * P] = state[e];
      }
      __syncthreads();
      for (int n = threadIdx.x; n < length * N; n += kThreads) {
        const size_t at = place(args, start + n / N, n % N);
        in.d[n] = expf(-expf(read(args.w, at)));
        in.r[n] = read(args.r, at), in.k[n] = read(args.k, at), in.v[n] = read(args.v, at);
        in.a[n] = read(args.a, at), in.b[n] = read(args.b, at);
      }
      __syncthreads();
      for (int t = 0; t < length; t++) {
        const int row = t * N + p;
        float s = 0.0f, y = 0.0f;
#pragma unroll
        for (int e = 0; e < kParts; e++) s += state[e] * in.a[row + e * P];
        s = sum_of_lanes<P>(s);
        const float v = in.v[t * N + i];
#pragma unroll
        for (int e = 0; e < kParts; e++) {
          const int j = row + e * P;
          state[e] = state[e] * in.d[j] + (s * in.b[j] + v * in.k[j]);
          y += state[e] * in.r[j];
        }
        y = sum_of_lanes<P>(y);
        if (p == 0) {
          const size_t at = place(args, start + t, i);
          write(args.y, at, y);
          if (args.removed) args.removed[at] = s;
        }
      }
    }
#pragma unroll
    for (int e = 0; e < kParts; e++) args.state[(head(args) * N + i) * N + e * P + p] = state[e];
  }

  __device__ static void backward(const Arguments& args, Back& in) {
    // q is a row of the state or a column of it.
    const int q = threadIdx.x / P, p = threadIdx.x % P;
    const int chunks = (args.time + kSteps - 1) / kSteps;
    float g_row[kParts], g_column[kParts], s_column[kParts];
#pragma unroll
    for (int e = 0; e < kParts; e++) {
      const float* d_state = args.d_state ? args.d_state + head(args) * N * N : nullptr;
      g_row[e] = d_state ? d_state[q * N + e * P + p] : 0.0f;
      g_column[e] = d_state ? d_state[(e * P + p) * N + q] : 0.0f;
    }
    for (int chunk = chunks - 1; chunk >= 0; chunk--) {
      const int start = chunk * kSteps, length = min(kSteps, args.time - start);
      const float* border = args.border + (head(args) * chunks + chunk) * N * N;
#pragma unroll
      for (int e = 0; e < kParts; e++) s_column[e] = border[(e * P + p) * N + q];
      __syncthreads();
      for (int n = threadIdx.x; n < length * N; n += kThreads) {
        const size_t at = place(args, start + n / N, n % N);
        in.slope[n] = -expf(read(args.w, at)), in.d[n] = expf(in.slope[n]);
        in.r[n] = read(args.r, at), in.k[n] = read(args.k, at), in.v[n] = read(args.v, at);
        in.a[n] = read(args.a, at), in.b[n] = read(args.b, at), in.dy[n] = read(args.dy, at);
        in.s[n] = args.removed[at];
      }
      __syncthreads();
      for (int t = length - 1; t >= 0; t--) {
        const int row = t * N + p;
        const float dy = in.dy[t * N + q];
        float dv = 0.0f, ds = 0.0f;
#pragma unroll
        for (int e = 0; e < kParts; e++) {
          const int j = row + e * P;
          g_row[e] += dy * in.r[j];
          dv += g_row[e] * in.k[j];
          ds += g_row[e] * in.b[j];
        }
        dv = sum_of_lanes<P>(dv), ds = sum_of_lanes<P>(ds);
#pragma unroll
        for (int e = 0; e < kParts; e++) g_row[e] = g_row[e] * in.d[row + e * P] + ds * in.a[row + e * P];
        if (p == 0) {
          in.ds[t * N + q] = ds;
          write(args.dv, place(args, start + t, q), dv);
        }
      }
      __syncthreads();
      for (int t = length - 1; t >= 0; t--) {
        const int row = t * N + p, own = t * N + q;
        const float r = in.r[own], d = in.d[own], a = in.a[own];
        float dk = 0.0f, db = 0.0f;
#pragma unroll
        for (int e = 0; e < kParts; e++) {
          const int i = row + e * P;
          g_column[e] += in.dy[i] * r;
          dk += g_column[e] * in.v[i];
          db += g_column[e] * in.s[i];
          g_column[e] = g_column[e] * d + in.ds[i] * a;
        }
        dk = sum_of_lanes<P>(dk), db = sum_of_lanes<P>(db);
        if (p == 0) in.dk[own] = dk, in.db[own] = db;
      }
      float product = 0.0f;
#pragma unroll
      for (int e = 0; e < kParts; e++) product += s_column[e] * g_column[e];
      product = sum_of_lanes<P>(product);
      for (int t = 0; t < length; t++) {
        const int row = t * N + p, own = t * N + q;
        const float d = in.d[own], k = in.k[own], b = in.b[own];
        float da = 0.0f, dr = 0.0f;
#pragma unroll
        for (int e = 0; e < kParts; e++) {
          const int i = row + e * P;
          da += s_column[e] * in.ds[i];
          s_column[e] = s_column[e] * d + (in.s[i] * b + in.v[i] * k);
          dr += s_column[e] * in.dy[i];
        }
        da = sum_of_lanes<P>(da), dr = sum_of_lanes<P>(dr);
        if (p == 0) in.da[own] = da, in.dr[own] = dr;
      }
      // Of a column, only its first thread wrote these values, and it alone reads them.
      if (p == 0) {
        for (int t = 0; t < length; t++) {
          const int own = t * N + q;
          const size_t at = place(args, start + t, q);
          const float decay = in.d[own] == 0.0f ? 0.0f : product - in.a[own] * in.da[own];
          product = decay - (in.r[own] * in.dr[own] - in.k[own] * in.dk[own] - in.b[own] * in.db[own]);
          write(args.dw, at, decay * in.slope[own]);
          write(args.dr, at, in.dr[own]), write(args.dk, at, in.dk[own]);
          write(args.da, at, in.da[own]), write(args.db, at, in.db[own]);
        }
      }
    }
#pragma unroll
    for (int e = 0; e < kParts; e++) args.ds0[(head(args) * N + q) * N + e * P + p] = g_row[e];
  }
};

#define RECURRENCE(name, T, N, P)                                   \
  KERNEL(N* P, wkv7_forward_##name##_##N, Arguments) {              \
    typedef Recurrence<T, N, P> Head;                               \
    DYNAMIC_SHARED(Head::Inside, inside);                           \
    Head::forward(args, inside);                                    \
  }                                                                 \
  KERNEL(N* P, wkv7_backward_##name##_##N, Arguments) {             \
    typedef Recurrence<T, N, P> Head;                               \
    DYNAMIC_SHARED(Head::Back, inside);                             \
    Head::backward(args, inside);                                   \
  }

RECURRENCE(f32, float, 32, 2)
RECURRENCE(f32, float, 64, 4)
RECURRENCE(f32, float, 128, 4)
RECURRENCE(bf16, bf16, 32, 2)
RECURRENCE(bf16, bf16, 64, 4)
RECURRENCE(bf16, bf16, 128, 4)
