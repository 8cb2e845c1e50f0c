// Runs the CUDA kernels of this package on a processor, so that their arithmetic and indices can be tested where
// there is no GPU. One block at a time, each thread of it a fiber; fibers change places where threads wait for each
// other: at __syncthreads, __syncwarp, shuffles and products on tensor cores. What a GPU alone can show (races between
// threads that do not wait, memory models, speed) it cannot.
//
// A kernel is a function of one pointer, that to its arguments; midi_emulate runs it over a grid.

#pragma once
#define MIDI_EMULATED

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#ifndef __x86_64__
#include <ucontext.h>
#endif

#define __device__
#define __shared__ static
#define __restrict__

struct Place3 {
  unsigned x, y, z;
};

namespace emulator {
constexpr int kLanes = 32;
constexpr size_t kStack = 64 << 10;

// Where a fiber goes on. Saving signal masks, as ucontext does, takes most of an emulation's time, so on x86-64 the
// registers that a call keeps are changed by hand.
#ifdef __x86_64__
extern "C" __attribute__((visibility("hidden"))) void midi_change(void** from, void* to);
asm(R"(
.text
.type midi_change, @function
midi_change:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

struct Context {
  void* stack = nullptr;
  void begin(std::vector<char>& memory, void (*run)()) {
    uintptr_t top = reinterpret_cast<uintptr_t>(memory.data() + memory.size()) & ~uintptr_t(15);
    void** at = reinterpret_cast<void**>(top - 16);
    *at = reinterpret_cast<void*>(run);
    stack = at - 6;
  }
  void change_to(Context& to) { midi_change(&stack, to.stack); }
};
#else
struct Context {
  ucontext_t context;
  void begin(std::vector<char>& memory, void (*run)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = memory.data();
    context.uc_stack.ss_size = memory.size();
    context.uc_link = nullptr;
    makecontext(&context, run, 0);
  }
  void change_to(Context& to) { swapcontext(&context, &to.context); }
};
#endif

struct Fiber {
  Context context;
  std::vector<char> stack;
  Place3 thread;
  // Waits so far: of the block, and of the warp.
  uint64_t block_waits, warp_waits;
  bool done;
};

struct Warp {
  uint64_t arrived = 0;
  // What lanes show each other, in two places by turns, so that one wait an exchange is enough.
  uint32_t shown[2][kLanes][6];
  int turn[kLanes];
};

// Static, not inline: several libraries made of this file may be open, and each has its own.
static std::vector<Fiber> fibers;
static std::vector<Warp> warps;
static uint64_t block_arrived;
static int current;
static Context scheduler;
static Place3 block_index, block_size, grid_size;
static std::vector<unsigned char> shared;
static void (*kernel)(const void*);
static const void* arguments;

inline void change() { fibers[current].context.change_to(scheduler); }

inline void wait_for_block() {
  uint64_t goal = ++fibers[current].block_waits * fibers.size();
  block_arrived++;
  while (block_arrived < goal) change();
}

inline int lanes_of(int warp) { return std::min<int>(kLanes, fibers.size() - warp * kLanes); }

inline void wait_for_warp() {
  Warp& warp = warps[current / kLanes];
  uint64_t goal = ++fibers[current].warp_waits * lanes_of(current / kLanes);
  warp.arrived++;
  while (warp.arrived < goal) change();
}

// Shows words to the other lanes and returns what all of them show.
inline const uint32_t (*exchange(const uint32_t* words, int count))[6] {
  Warp& warp = warps[current / kLanes];
  int lane = current % kLanes, turn = warp.turn[lane] ^= 1;
  std::copy(words, words + count, warp.shown[turn][lane]);
  wait_for_warp();
  return warp.shown[turn];
}

inline void run() {
  kernel(arguments);
  fibers[current].done = true;
  change();
}
}  // namespace emulator

#define threadIdx (emulator::fibers[emulator::current].thread)
#define blockIdx (emulator::block_index)
#define blockDim (emulator::block_size)
#define gridDim (emulator::grid_size)

#define KERNEL(threads, name, Arguments)                                                    \
  static void name##_body(const Arguments& args);                                           \
  extern "C" void name(const void* arguments) { name##_body(*static_cast<const Arguments*>(arguments)); } \
  static void name##_body(const Arguments& args)
#define KERNEL_OF_LIST(threads, name, Arguments) KERNEL(threads, name, Arguments)
#define DYNAMIC_SHARED(Type, name) Type& name = *reinterpret_cast<Type*>(emulator::shared.data())

inline void __syncthreads() { emulator::wait_for_block(); }
inline void __syncwarp() { emulator::wait_for_warp(); }
inline float __uint_as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t __float_as_uint(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
template <typename T>
inline T min(T x, T y) {
  return y < x ? y : x;
}
template <typename T>
inline T max(T x, T y) {
  return x < y ? y : x;
}
inline float __shfl_xor_sync(unsigned, float x, int mask) {
  uint32_t bits = __float_as_uint(x);
  return __uint_as_float(emulator::exchange(&bits, 1)[(emulator::current % emulator::kLanes) ^ mask][0]);
}

// The product of 16x16 and 16x8 in bf16, as the instruction m16n8k16 lays it out over the lanes.
inline void multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  uint32_t words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const uint32_t(*all)[6] = emulator::exchange(words, 6);
  int lane = emulator::current % emulator::kLanes;
  auto number = [](uint32_t word, int high) { return __uint_as_float(high ? word & 0xffff0000u : word << 16); };
  auto left = [&](int row, int k) {
    return number(all[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2);
  };
  auto right = [&](int k, int column) { return number(all[column * 4 + k % 8 / 2][4 + k / 8], k % 2); };
  for (int n = 0; n < 4; n++) {
    int row = lane / 4 + n / 2 * 8, column = lane % 4 * 2 + n % 2;
    float sum = 0;
    for (int k = 0; k < 16; k++) sum += left(row, k) * right(k, column);
    c[n] += sum;
  }
}

extern "C" void midi_emulate(void (*kernel)(const void*), const void* arguments, unsigned grid_x, unsigned grid_y,
                             unsigned threads, unsigned shared_bytes) {
  using namespace emulator;
  emulator::kernel = kernel;
  emulator::arguments = arguments;
  fibers.resize(threads);
  for (Fiber& fiber : fibers) fiber.stack.resize(kStack);
  shared.resize(shared_bytes);
  block_size = {threads, 1, 1};
  grid_size = {grid_x, grid_y, 1};
  for (unsigned block = 0; block < grid_x * grid_y; block++) {
    block_index = {block % grid_x, block / grid_x, 0};
    block_arrived = 0;
    warps.assign((threads + kLanes - 1) / kLanes, Warp());
    // What was never written is not a number, as far as the kernel may know.
    std::fill(shared.begin(), shared.end(), 0xff);
    for (unsigned n = 0; n < threads; n++) {
      Fiber& fiber = fibers[n];
      fiber.context.begin(fiber.stack, run);
      fiber.thread = {n, 0, 0};
      fiber.block_waits = fiber.warp_waits = 0;
      fiber.done = false;
    }
    // Every other block has its last thread first: what depends on who comes first then shows.
    static bool backwards = false;
    backwards = !backwards;
    for (unsigned left = threads; left > 0;) {
      left = 0;
      for (unsigned n = 0; n < threads; n++) {
        current = backwards ? threads - 1 - n : n;
        if (fibers[current].done) continue;
        Fiber& fiber = fibers[current];
        scheduler.change_to(fiber.context);
        left += !fiber.done;
      }
    }
  }
}
