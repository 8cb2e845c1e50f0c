// A loop on the threads of torch's own operators.

#include <ATen/Parallel.h>

extern "C" void midi_parallel(size_t threads, void (*call)(const void*, size_t), const void* job) {
  // The callback throws nothing. A grain of one: a call a thread.
  at::parallel_for(0, static_cast<int64_t>(threads), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) call(job, static_cast<size_t>(i));
  });
}
