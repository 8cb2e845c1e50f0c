// The WKV-7 operator in chunks of 16 steps on tensor cores (the WY form of the delta rule). What chunk.rs does step by
// step on a processor, this does with the same tiles and the same roundings: operands of products in bf16, sums, states
// and the triangular system in f32.
//
// One block of four warps a (sequence, head), over the chunks one after the other. With c the running sum of the
// logarithms of the decays inside a chunk (c- without the step's own) and ~ for what is scaled by it,
//     q = r e^c, a~ = a e^c-, k~ = k e^-c, b~ = b e^-c, kf = k e^(c_last - c), bf = b e^(c_last - c), f = e^c_last
//     A_qk = tril(q k~^T)  A_qb = tril(q b~^T)  A_ak = stril(a~ k~^T)  A_ab = stril(a~ b~^T)
//     (I - A_ab) u = A_ak v + a~ S^T     y = A_qk v + A_qb u + q S^T     S' = S f + v^T kf + u^T bf
// Warp w holds value lanes (rows) 16 w .. of S and of its gradient G in the layout in which products come out of the
// tensor cores; the same registers, rounded, are the right factor of a product with S^T.
//
// A step whose first lane's decay is as good as zero forgets the state: its logarithm counts as nothing, and what lies
// before it and what comes after it do not see each other. Other logarithms are kept above -5, so that e^-c stays a number
// (the model's are above -0.61).

struct Arguments {
  int time, heads;
  const void *r, *w, *k, *v, *a, *b, *dy;
  const float* s0;
  float* state;    // in the forward pass only
  float* removed;  // not used; the struct is that of the other form
  float* border;   // the state before each chunk, [B, H, chunks, 64, 64], or null in a forward pass alone
  const float* d_state;
  void* y;
  void *dr, *dw, *dk, *dv, *da, *db;
  float* ds0;
};

constexpr int kSteps = 16, kLanes = 64, kThreads = 128;
// Strides in shared memory, so that the rows that a warp reads together lie in different banks.
constexpr int kRow = 72;     // of a step's 64 lanes, or a lane's
constexpr int kColumn = 24;  // of a lane's 16 steps, or a step's
constexpr int kSums = 72;    // of the running sums of a step, which eight steps' lanes read together
constexpr int kWide = 68;    // of a step's 64 lanes in f32
constexpr float kForgets = -20.0f, kLeast = -5.0f;
constexpr float kBeyond = -50.0f;  // w of steps beyond the last: nothing decays

typedef float Tile[8][4];  // a warp's 16 x 64 numbers

struct Chunk {
  // By step: [16][kRow].
  u16 q[kSteps * kRow], k[kSteps * kRow], a[kSteps * kRow], b[kSteps * kRow];
  // By lane: [64][kColumn].
  u16 v_t[kLanes * kColumn], u_t[kLanes * kColumn];
  // By step and step: [16][kColumn].
  u16 a_ak[kSteps * kColumn];
  float a_ab[kSteps * 17];
  float z[kSteps * kWide];
  float f[kLanes];
  alignas(16) u32 forgets;  // a bit a step
};

struct Forward : Chunk {
  u16 kf_t[kLanes * kColumn], bf_t[kLanes * kColumn];
  u16 a_qk[kSteps * kColumn], a_qb[kSteps * kColumn];
};

struct Backward : Chunk {
  u16 kf[kSteps * kRow], bf[kSteps * kRow], v[kSteps * kRow], u[kSteps * kRow], dy[kSteps * kRow], dz[kSteps * kRow];
  u16 q_t[kLanes * kColumn], k_t[kLanes * kColumn], a_t[kLanes * kColumn], b_t[kLanes * kColumn];
  u16 dy_t[kLanes * kColumn], dz_t[kLanes * kColumn];
  // A_qk, A_qb and A_ak transposed; the gradients of the four, as they are and transposed.
  u16 t_qk[kSteps * kColumn], t_qb[kSteps * kColumn], t_ak[kSteps * kColumn];
  u16 d_a[4][kSteps * kColumn], d_a_t[4][kSteps * kColumn];
  // S before the chunk and G after it, transposed: [key lane][value lane].
  u16 s_t[kLanes * kRow], g_t[kLanes * kRow];
  float c[(kSteps + 1) * kSums];  // c- of each step, and c of the last one
  float own[kSteps * kWide], asked[kSteps * kWide];
  float anchor[4][kLanes];
};

struct alignas(16) Eight {
  u32 of[4];
};

// A lane's 16 steps in bf16, side by side: two stores of 16 bytes, which lie in different banks.
__device__ inline void put_column(u16* to, const float (&x)[kSteps]) {
#pragma unroll
  for (int s = 0; s < kSteps; s += 8) {
    *reinterpret_cast<Eight*>(to + s) = Eight{{packed(x[s], x[s + 1]), packed(x[s + 2], x[s + 3]),
                                               packed(x[s + 4], x[s + 5]), packed(x[s + 6], x[s + 7])}};
  }
}

// Whether step t sees what step s wrote, s up to t.
__device__ inline bool sees(u32 forgets, int t, int s) { return s <= t && ((forgets >> 1 >> s) & ((1u << (t - s)) - 1)) == 0; }
// Whether step t sees the state before the chunk.
__device__ inline bool sees_before(u32 forgets, int t) { return (forgets & ((2u << t) - 1)) == 0; }
// The same of what step t asks of the state, before it changes it.
__device__ inline bool asks(u32 forgets, int t, int s) { return s < t && sees(forgets, t - 1, s); }
__device__ inline bool asks_before(u32 forgets, int t) { return (forgets & ((1u << t) - 1)) == 0; }

// Whether matrix `which` of the four has something at [t][s]. Most chunks forget nothing.
__device__ inline bool there(u32 forgets, int which, int t, int s) {
  if (forgets == 0) return which < 2 ? s <= t : s < t;
  return which < 2 ? sees(forgets, t, s) : asks(forgets, t, s);
}

__device__ inline void clear(float (&tiles)[2][4]) {
#pragma unroll
  for (int n = 0; n < 8; n++) tiles[n / 4][n % 4] = 0.0f;
}

// tiles += left right^T over `Inner` common lanes or steps: 16 rows from `left`, 16 from `right`, all contiguous.
template <int Inner>
__device__ inline void add_product(float (&tiles)[2][4], const u16* left, int left_stride, const u16* right,
                                   int right_stride, int lane) {
#pragma unroll
  for (int inner = 0; inner < Inner; inner += 16) {
    u32 a[4], b[2];
    load_left(a, left + inner, left_stride, lane);
#pragma unroll
    for (int n = 0; n < 2; n++) {
      load_right(b, right + 8 * n * right_stride + inner, right_stride, lane);
      multiply(tiles[n], a, b);
    }
  }
}

// tiles += left S^T for a warp's own value lanes of S.
__device__ inline void add_state(float (&tiles)[2][4], const u16* left, const Tile& state, int lane) {
#pragma unroll
  for (int inner = 0; inner < 4; inner++) {
    u32 a[4];
    load_left(a, left + 16 * inner, kRow, lane);
#pragma unroll
    for (int n = 0; n < 2; n++) {
      const u32 b[2] = {packed(state[2 * inner][2 * n], state[2 * inner][2 * n + 1]),
                        packed(state[2 * inner + 1][2 * n], state[2 * inner + 1][2 * n + 1])};
      multiply(tiles[n], a, b);
    }
  }
}

// Puts zeros into the rows of two tiles that `keep` does not keep.
template <typename Keep>
__device__ inline void select_rows(float (&tiles)[2][4], int lane, Keep keep) {
  const int group = lane >> 2;
  const bool first = keep(group), second = keep(group + 8);
#pragma unroll
  for (int n = 0; n < 2; n++) {
    if (!first) tiles[n][0] = tiles[n][1] = 0.0f;
    if (!second) tiles[n][2] = tiles[n][3] = 0.0f;
  }
}

// Calls use(row, column, number) for a lane's numbers of two tiles.
template <typename Use>
__device__ inline void each(const float (&tiles)[2][4], int lane, Use use) {
#pragma unroll
  for (int n = 0; n < 2; n++) {
#pragma unroll
    for (int i = 0; i < 4; i++) use((lane >> 2) + i / 2 * 8, 8 * n + 2 * (lane & 3) + i % 2, tiles[n][i]);
  }
}

struct Chunked {
  // What a thread reads of a chunk: its lane in 16 steps of up to four inputs.
  typedef float Column[kSteps];

  __device__ static size_t place(const Arguments& args, int t, int lane) {
    return ((static_cast<size_t>(blockIdx.y) * args.time + t) * args.heads + blockIdx.x) * kLanes + lane;
  }
  __device__ static size_t head(const Arguments& args) {
    return static_cast<size_t>(blockIdx.y) * args.heads + blockIdx.x;
  }
  typedef bf16 Raw[kSteps];  // the same as it is in memory

  // Reads without a branch, so that all loads are on their way before the first one is waited for.
  __device__ static void fetch(Raw& to, const Arguments& args, const void* from, int start) {
    const bf16* at = static_cast<const bf16*>(from) + place(args, 0, threadIdx.x % kLanes);
    const int stride = args.heads * kLanes, last = args.time - 1;
#pragma unroll
    for (int s = 0; s < kSteps; s++) to[s] = at[static_cast<size_t>(min(start + s, last)) * stride];
  }
  __device__ static void widen(Column& to, const Raw& from, int left, float beyond) {
#pragma unroll
    for (int s = 0; s < kSteps; s++) to[s] = s < left ? wide(from[s]) : beyond;
  }

  // Has the rows of the chunk from `start` and the state before it brought into the second-level cache: a line a thread.
  __device__ static void announce(const Arguments& args, int start) {
#ifndef MIDI_EMULATED
    const int n = threadIdx.x / kSteps, t = start + threadIdx.x % kSteps;
    const void* from = n == 0 ? args.r : n == 1 ? args.w : n == 2 ? args.k : n == 3 ? args.v : n == 4 ? args.a
                                       : n == 5 ? args.b : args.dy;
    const size_t chunks = (args.time + kSteps - 1) / kSteps;
    const float* state = args.border + (head(args) * chunks + start / kSteps) * kLanes * kLanes + 32 * threadIdx.x;
    if (n < 7) asm volatile("prefetch.global.L2 [%0];" ::"l"(static_cast<const bf16*>(from) + place(args, t, 0)));
    asm volatile("prefetch.global.L2 [%0];" ::"l"(state));
#endif
  }

  // The logarithms of the decays from w, their running sum and which steps forget.
  __device__ static u32 decays(Column& slope, Column& c, const Column& w) {
    u32 forgets = 0;
    float sum = 0.0f;
#pragma unroll
    for (int s = 0; s < kSteps; s++) {
      slope[s] = -expf(w[s]);
      if (slope[s] < kForgets) {
        forgets |= 1u << s;
        slope[s] = 0.0f;
      }
      sum += slope[s] > kLeast ? slope[s] : kLeast;
      c[s] = sum;
    }
    return forgets;
  }

  __device__ static void load_state(Tile& state, const float* from, int first, int lane) {
    const size_t at = (first + (lane >> 2)) * kLanes + 2 * (lane & 3);
#pragma unroll
    for (int n = 0; n < 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) state[n][i] = from ? from[at + (i / 2 * 8) * kLanes + 8 * n + i % 2] : 0.0f;
    }
  }
  __device__ static void store_state(float* to, const Tile& state, int first, int lane) {
    float* at = to + (first + (lane >> 2)) * kLanes + 2 * (lane & 3);
#pragma unroll
    for (int n = 0; n < 8; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) at[(i / 2 * 8) * kLanes + 8 * n + i % 2] = state[n][i];
    }
  }

  // One of A_qk, A_qb, A_ak and A_ab a warp.
  __device__ static void matrix(float (&tiles)[2][4], const Chunk& in, int warp, int lane) {
    clear(tiles);
    add_product<kLanes>(tiles, warp < 2 ? in.q : in.a, kRow, warp % 2 ? in.b : in.k, kRow, lane);
    const u32 forgets = in.forgets;
#pragma unroll
    for (int n = 0; n < 2; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int t = (lane >> 2) + i / 2 * 8, s = 8 * n + 2 * (lane & 3) + i % 2;
        if (!there(forgets, warp, t, s)) tiles[n][i] = 0.0f;
      }
    }
  }

  // u of a warp's value lanes from A_ak, A_ab, v and S, into u_t.
  __device__ static void solve(Chunk& in, const Tile& state, int first, int lane) {
    float tiles[2][4];
    clear(tiles);
    add_state(tiles, in.a, state, lane);
    select_rows(tiles, lane, [&](int t) { return asks_before(in.forgets, t); });
    add_product<kSteps>(tiles, in.a_ak, kColumn, in.v_t + first * kColumn, kColumn, lane);
    each(tiles, lane, [&](int t, int i, float x) { in.z[t * kWide + first + i] = x; });
    __syncwarp();
    if (lane < 16) {
      const int i = first + lane;
      float u[kSteps];
#pragma unroll
      for (int t = 0; t < kSteps; t++) {
        u[t] = in.z[t * kWide + i];
#pragma unroll
        for (int s = 0; s < t; s++) u[t] += in.a_ab[t * 17 + s] * u[s];
      }
      put_column(in.u_t + i * kColumn, u);
    }
    __syncwarp();
  }

  // x rounded to bf16 and back.
  __device__ static float through(float x) { return __uint_as_float(packed(0.0f, x)); }
  __device__ static u16 bits(float x) { return static_cast<u16>(packed(x, 0.0f)); }

  __device__ static void forward(const Arguments& args, Forward& in) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = 16 * warp;
    const int j = threadIdx.x % kLanes;
    const bool queries = threadIdx.x < kLanes;  // else removals
    const size_t chunks = (args.time + kSteps - 1) / kSteps;
    Tile state;
    load_state(state, args.s0 ? args.s0 + head(args) * kLanes * kLanes : nullptr, first, lane);
    const void* in_x = queries ? args.r : args.a;
    const void* in_y = queries ? args.k : args.b;
    Raw raw_w, raw_x, raw_y, raw_v;
    fetch(raw_w, args, args.w, 0), fetch(raw_x, args, in_x, 0), fetch(raw_y, args, in_y, 0);
    fetch(raw_v, args, args.v, 0);

    for (int start = 0; start < args.time; start += kSteps) {
      {
        Column slope, c, w, x, y, v;
        const int left = args.time - start;
        widen(w, raw_w, left, kBeyond), widen(x, raw_x, left, 0.0f), widen(y, raw_y, left, 0.0f);
        widen(v, raw_v, left, 0.0f);
        const u32 forgets = decays(slope, c, w);
        if (threadIdx.x == 0) in.forgets = forgets;
        if (queries) in.f[j] = forgets ? 0.0f : expf(c[kSteps - 1]);
#pragma unroll
        for (int s = 0; s < kSteps; s++) {
          const float into = expf(queries ? c[s] : (s ? c[s - 1] : 0.0f)), out = expf(-c[s]);
          const float to_end = sees(forgets, kSteps - 1, s) ? expf(c[kSteps - 1] - c[s]) : 0.0f;
          (queries ? in.q : in.a)[s * kRow + j] = bits(x[s] * into);
          (queries ? in.k : in.b)[s * kRow + j] = bits(y[s] * out);
          y[s] *= to_end;
        }
        put_column((queries ? in.kf_t : in.bf_t) + j * kColumn, y);
        if (queries) put_column(in.v_t + j * kColumn, v);
      }
      if (args.border) {
        store_state(args.border + (head(args) * chunks + start / kSteps) * kLanes * kLanes, state, first, lane);
      }
      __syncthreads();
      // The next chunk is on its way while this one is computed.
      const int next = start + kSteps;
      fetch(raw_w, args, args.w, next), fetch(raw_x, args, in_x, next), fetch(raw_y, args, in_y, next);
      fetch(raw_v, args, args.v, next);
      float tiles[2][4];
      matrix(tiles, in, warp, lane);
      u16* rounded = warp == 0 ? in.a_qk : warp == 1 ? in.a_qb : in.a_ak;
      each(tiles, lane, [&](int t, int s, float number) {
        if (warp < 3) {
          rounded[t * kColumn + s] = bits(number);
        } else {
          in.a_ab[t * 17 + s] = number;
        }
      });
      __syncthreads();
      solve(in, state, first, lane);
      clear(tiles);
      add_state(tiles, in.q, state, lane);
      select_rows(tiles, lane, [&](int t) { return sees_before(in.forgets, t); });
      add_product<kSteps>(tiles, in.a_qk, kColumn, in.v_t + first * kColumn, kColumn, lane);
      add_product<kSteps>(tiles, in.a_qb, kColumn, in.u_t + first * kColumn, kColumn, lane);
      store_rows(args, args.y, tiles, start, first, lane);

      u32 left_v[4], left_u[4];
      load_left(left_v, in.v_t + first * kColumn, kColumn, lane);
      load_left(left_u, in.u_t + first * kColumn, kColumn, lane);
#pragma unroll
      for (int n = 0; n < 8; n++) {
        u32 right[2];
        fade(state[n], in.f, 8 * n, lane);
        load_right(right, in.kf_t + 8 * n * kColumn, kColumn, lane);
        multiply(state[n], left_v, right);
        load_right(right, in.bf_t + 8 * n * kColumn, kColumn, lane);
        multiply(state[n], left_u, right);
      }
      __syncthreads();
    }
    store_state(args.state + head(args) * kLanes * kLanes, state, first, lane);
  }

  // Multiplies the columns of a tile by f.
  __device__ static void fade(float (&tile)[4], const float* f, int column, int lane) {
#pragma unroll
    for (int i = 0; i < 4; i++) tile[i] *= f[column + 2 * (lane & 3) + i % 2];
  }

  // Writes two tiles of steps by lanes, beginning at lane `first`.
  __device__ static void store_rows(const Arguments& args, void* to, const float (&tiles)[2][4], int start, int first,
                                    int lane) {
#pragma unroll
    for (int n = 0; n < 2; n++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int t = start + (lane >> 2) + 8 * half;
        bf16* at = static_cast<bf16*>(to) + place(args, t, first + 8 * n + 2 * (lane & 3));
        if (t < args.time) store_pair(at, tiles[n][2 * half], tiles[n][2 * half + 1]);
      }
    }
  }

  // Sum over a warp's value lanes of S G, by key lane; S as products take it, so that the sum and the products agree.
  __device__ static void anchor(float* to, const Tile& s, const Tile& g, int lane) {
#pragma unroll
    for (int n = 0; n < 8; n++) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        float sum = through(s[n][i]) * g[n][i] + through(s[n][i + 2]) * g[n][i + 2];
        for (int step = 4; step < 32; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
        if (lane < 4) to[8 * n + 2 * lane + i] = sum;
      }
    }
  }

  __device__ static void backward(const Arguments& args, Backward& in) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, first = 16 * warp;
    const int j = threadIdx.x % kLanes;
    const bool queries = threadIdx.x < kLanes;  // else removals
    const int chunks = (args.time + kSteps - 1) / kSteps;
    constexpr int kState = kLanes * kLanes;
    Tile state, g;
    load_state(g, args.d_state ? args.d_state + head(args) * kState : nullptr, first, lane);

    for (int chunk = chunks - 1; chunk >= 0; chunk--) {
      const int start = chunk * kSteps;
      Column slope;
      {
        Column w, x, y, v, c;
        {
          Raw raw_w, raw_x, raw_y, raw_v;
          fetch(raw_w, args, args.w, start), fetch(raw_x, args, queries ? args.r : args.a, start);
          fetch(raw_y, args, queries ? args.k : args.b, start), fetch(raw_v, args, queries ? args.v : args.dy, start);
          const int left = args.time - start;
          widen(w, raw_w, left, kBeyond), widen(x, raw_x, left, 0.0f), widen(y, raw_y, left, 0.0f);
          widen(v, raw_v, left, 0.0f);
        }
        const u32 forgets = decays(slope, c, w);
        if (threadIdx.x == 0) in.forgets = forgets;
        if (queries) in.f[j] = forgets ? 0.0f : expf(c[kSteps - 1]);
#pragma unroll
        for (int s = 0; s < kSteps; s++) {
          const float into = expf(queries ? c[s] : (s ? c[s - 1] : 0.0f)), out = expf(-c[s]);
          const float to_end = sees(forgets, kSteps - 1, s) ? expf(c[kSteps - 1] - c[s]) : 0.0f;
          (queries ? in.kf : in.bf)[s * kRow + j] = bits(y[s] * to_end);
          x[s] *= into, y[s] *= out;
          (queries ? in.q : in.a)[s * kRow + j] = bits(x[s]);
          (queries ? in.k : in.b)[s * kRow + j] = bits(y[s]);
          (queries ? in.v : in.dy)[s * kRow + j] = bits(v[s]);
          if (queries) in.c[(s + 1) * kSums + j] = c[s];
        }
        put_column((queries ? in.q_t : in.a_t) + j * kColumn, x);
        put_column((queries ? in.k_t : in.b_t) + j * kColumn, y);
        put_column((queries ? in.v_t : in.dy_t) + j * kColumn, v);
        if (queries) in.c[j] = 0.0f;
      }
      load_state(state, args.border + (head(args) * chunks + chunk) * kState, first, lane);
#pragma unroll
      for (int n = 0; n < 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int key = 8 * n + 2 * (lane & 3) + i % 2, value = first + (lane >> 2) + i / 2 * 8;
          in.s_t[key * kRow + value] = bits(state[n][i]);
          in.g_t[key * kRow + value] = bits(g[n][i]);
        }
      }
      __syncthreads();
      if (chunk > 0) announce(args, start - kSteps);
      float tiles[2][4];
      matrix(tiles, in, warp, lane);
      u16* turned = warp == 0 ? in.t_qk : warp == 1 ? in.t_qb : in.t_ak;
      each(tiles, lane, [&](int t, int s, float number) {
        if (warp < 3) turned[s * kColumn + t] = bits(number);
        if (warp == 2) in.a_ak[t * kColumn + s] = bits(number);
        if (warp == 3) in.a_ab[t * 17 + s] = number;
      });
      __syncthreads();
      solve(in, state, first, lane);

      // du = bf G^T + A_qb^T dy, and dz from (I - A_ab)^T dz = du.
      clear(tiles);
      add_state(tiles, in.bf, g, lane);
      add_product<kSteps>(tiles, in.t_qb, kColumn, in.dy_t + first * kColumn, kColumn, lane);
      each(tiles, lane, [&](int s, int i, float number) { in.z[s * kWide + first + i] = number; });
      __syncwarp();
      if (lane < 16) {
        const int i = first + lane;
        float dz[kSteps];
#pragma unroll
        for (int s = kSteps - 1; s >= 0; s--) {
          dz[s] = in.z[s * kWide + i];
#pragma unroll
          for (int t = s + 1; t < kSteps; t++) dz[s] += in.a_ab[t * 17 + s] * dz[t];
        }
#pragma unroll
        for (int s = 0; s < kSteps; s++) {
          in.dz[s * kRow + i] = bits(dz[s]);
          in.u[s * kRow + i] = in.u_t[i * kColumn + s];
        }
        put_column(in.dz_t + i * kColumn, dz);
      }
      __syncwarp();
      // dv = kf G^T + A_qk^T dy + A_ak^T dz
      clear(tiles);
      add_state(tiles, in.kf, g, lane);
      add_product<kSteps>(tiles, in.t_qk, kColumn, in.dy_t + first * kColumn, kColumn, lane);
      add_product<kSteps>(tiles, in.t_ak, kColumn, in.dz_t + first * kColumn, kColumn, lane);
      store_rows(args, args.dv, tiles, start, first, lane);
      __syncthreads();

      // The gradients of the four matrices, one a warp.
      clear(tiles);
      add_product<kLanes>(tiles, warp < 2 ? in.dy : in.dz, kRow, warp % 2 ? in.u : in.v, kRow, lane);
      const u32 forgets = in.forgets;
      each(tiles, lane, [&](int t, int s, float number) {
        in.d_a[warp][t * kColumn + s] = in.d_a_t[warp][s * kColumn + t] = there(forgets, warp, t, s) ? bits(number) : 0;
      });
      __syncthreads();
      inputs(args, in, start, warp, lane);

      // G before the chunk: G f + dy^T q + dz^T a~, of the steps that see the state before it.
      u32 left_y[4], left_z[4];
      load_left(left_y, in.dy_t + first * kColumn, kColumn, lane);
      load_left(left_z, in.dz_t + first * kColumn, kColumn, lane);
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int t = 2 * (lane & 3) + i / 2 * 8;
        left_y[i] &= (sees_before(in.forgets, t) ? 0xffffu : 0) | (sees_before(in.forgets, t + 1) ? 0xffff0000u : 0);
        left_z[i] &= (asks_before(in.forgets, t) ? 0xffffu : 0) | (asks_before(in.forgets, t + 1) ? 0xffff0000u : 0);
      }
#pragma unroll
      for (int n = 0; n < 8; n++) {
        u32 right[2];
        fade(g[n], in.f, 8 * n, lane);
        load_right(right, in.q_t + 8 * n * kColumn, kColumn, lane);
        multiply(g[n], left_y, right);
        load_right(right, in.a_t + 8 * n * kColumn, kColumn, lane);
        multiply(g[n], left_z, right);
      }
      anchor(in.anchor[warp], state, g, lane);
      __syncthreads();
      if (queries) {
        // From the sum over the value lanes of S G before the chunk, step by step: what a step asks, then what it adds.
        float product = in.anchor[0][j] + in.anchor[1][j] + in.anchor[2][j] + in.anchor[3][j];
#pragma unroll
        for (int t = 0; t < kSteps; t++) {
          const float decay = in.forgets >> t & 1 ? 0.0f : product - in.asked[t * kWide + j];
          product = decay - in.own[t * kWide + j];
          if (start + t < args.time) {
            static_cast<bf16*>(args.dw)[place(args, start + t, j)] = narrow<bf16>(decay * slope[t]);
          }
        }
      }
      __syncthreads();
    }
    store_state(args.ds0 + head(args) * kState, g, first, lane);
  }

  // dr, da, dk and db of the key lanes 16 warp ..., and what they say about the decays: r dr - k dk - b db, and a da.
  // The latter are taken from the very factors of the products, before anything is scaled back: then what cancels in
  // their sums does so to f32.
  __device__ static void inputs(const Arguments& args, Backward& in, int start, int warp, int lane) {
    const int first = 16 * warp;
    const u16 *s_t = in.s_t + first * kRow, *g_t = in.g_t + first * kRow;
    const u16 *q_t = in.q_t + first * kColumn, *k_t = in.k_t + first * kColumn;
    const u16 *a_t = in.a_t + first * kColumn, *b_t = in.b_t + first * kColumn;
    float own[2][4], tiles[2][4], late[2][4];

    clear(tiles), clear(own);
    add_product<kLanes>(tiles, in.dy, kRow, s_t, kRow, lane);
    select_rows(tiles, lane, [&](int t) { return sees_before(in.forgets, t); });
    add_product<kSteps>(tiles, in.d_a[0], kColumn, k_t, kColumn, lane);
    add_product<kSteps>(tiles, in.d_a[1], kColumn, b_t, kColumn, lane);
    add_factor(own, in.q + first, tiles, 1.0f, lane);
    scale(tiles, in, 1, 1.0f, first, lane);
    store_rows(args, args.dr, tiles, start, first, lane);

    clear(tiles), clear(late);
    add_product<kLanes>(late, in.v, kRow, g_t, kRow, lane);
    add_product<kSteps>(tiles, in.d_a_t[0], kColumn, q_t, kColumn, lane);
    add_product<kSteps>(tiles, in.d_a_t[2], kColumn, a_t, kColumn, lane);
    add_factor(own, in.k + first, tiles, -1.0f, lane);
    add_factor(own, in.kf + first, late, -1.0f, lane);
    join(tiles, late, in, first, lane);
    store_rows(args, args.dk, tiles, start, first, lane);

    clear(tiles), clear(late);
    add_product<kLanes>(late, in.u, kRow, g_t, kRow, lane);
    add_product<kSteps>(tiles, in.d_a_t[1], kColumn, q_t, kColumn, lane);
    add_product<kSteps>(tiles, in.d_a_t[3], kColumn, a_t, kColumn, lane);
    add_factor(own, in.b + first, tiles, -1.0f, lane);
    add_factor(own, in.bf + first, late, -1.0f, lane);
    join(tiles, late, in, first, lane);
    store_rows(args, args.db, tiles, start, first, lane);
    each(own, lane, [&](int t, int i, float x) { in.own[t * kWide + first + i] = x; });

    clear(tiles), clear(own);
    add_product<kLanes>(tiles, in.dz, kRow, s_t, kRow, lane);
    select_rows(tiles, lane, [&](int t) { return asks_before(in.forgets, t); });
    add_product<kSteps>(tiles, in.d_a[2], kColumn, k_t, kColumn, lane);
    add_product<kSteps>(tiles, in.d_a[3], kColumn, b_t, kColumn, lane);
    add_factor(own, in.a + first, tiles, 1.0f, lane);
    scale(tiles, in, 0, 1.0f, first, lane);
    store_rows(args, args.da, tiles, start, first, lane);
    each(own, lane, [&](int t, int i, float x) { in.asked[t * kWide + first + i] = x; });
  }

  // Multiplies steps by lanes by e^(sign c), or e^(sign c-) if `shift` is 0.
  __device__ static void scale(float (&tiles)[2][4], const Backward& in, int shift, float sign, int first, int lane) {
#pragma unroll
    for (int n = 0; n < 2; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int t = (lane >> 2) + i / 2 * 8, key = first + 8 * n + 2 * (lane & 3) + i % 2;
        tiles[n][i] *= expf(sign * in.c[(t + shift) * kSums + key]);
      }
    }
  }

  // tiles e^-c + late e^(c_last - c), the latter of the steps that the end of the chunk sees.
  __device__ static void join(float (&tiles)[2][4], const float (&late)[2][4], const Backward& in, int first, int lane) {
    scale(tiles, in, 1, -1.0f, first, lane);
#pragma unroll
    for (int n = 0; n < 2; n++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int t = (lane >> 2) + i / 2 * 8, key = first + 8 * n + 2 * (lane & 3) + i % 2;
        const float to_end = expf(in.c[kSteps * kSums + key] - in.c[(t + 1) * kSums + key]);
        if (sees(in.forgets, kSteps - 1, t)) tiles[n][i] += late[n][i] * to_end;
      }
    }
  }

  // sum += sign factor tiles, for a factor of products by step.
  __device__ static void add_factor(float (&sum)[2][4], const u16* factor, const float (&tiles)[2][4], float sign,
                                    int lane) {
#pragma unroll
    for (int n = 0; n < 2; n++) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const u32 pair = word_at(factor + ((lane >> 2) + 8 * half) * kRow + 8 * n + 2 * (lane & 3));
        sum[n][2 * half] += sign * __uint_as_float(pair << 16) * tiles[n][2 * half];
        sum[n][2 * half + 1] += sign * __uint_as_float(pair & 0xffff0000u) * tiles[n][2 * half + 1];
      }
    }
  }
};

KERNEL(kThreads, wkv7_chunk_forward_bf16, Arguments) {
  DYNAMIC_SHARED(Forward, inside);
  Chunked::forward(args, inside);
}
KERNEL(kThreads, wkv7_chunk_backward_bf16, Arguments) {
  DYNAMIC_SHARED(Backward, inside);
  Chunked::backward(args, inside);
}

// What the host asks for.
static_assert(sizeof(Forward) <= 36 * 1024 && sizeof(Backward) <= 110 * 1024, "shared memory of a block");
