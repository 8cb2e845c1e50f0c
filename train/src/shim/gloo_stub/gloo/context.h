// The wheel of torch 2.11.0 exports gloo's code but ships none of its headers. ProcessGroupGloo.hpp holds
// these classes by pointer alone, so their names are enough.
#pragma once
#include <chrono>
#include <memory>
namespace gloo {
class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};
} // namespace gloo
