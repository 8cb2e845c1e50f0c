// libtorch's gloo process group behind a C interface. The group finds its peers through libtorch's own
// TCPStore client, which talks to whatever serves the store: our server or torchrun's agent.
//
// Every function returns null, or an error text that midi_op_free takes back.
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

namespace {

struct Group {
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo;
};

using Milliseconds = std::chrono::milliseconds;

template <typename Body>
char* guarded(Body body) {
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an unknown exception");
  }
}

} // namespace

extern "C" {

// Joins the group `prefix` of `world` ranks; `bind` is the name or address of this machine's interface to listen on.
char* midi_gloo_new(const char* host, uint16_t port, const char* prefix, const char* bind, int rank, int world,
                    int64_t timeout_ms, Group** out) {
  return guarded([&] {
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = false;
    options.waitWorkers = false;
    options.timeout = Milliseconds(timeout_ms);
    auto tcp = c10::make_intrusive<c10d::TCPStore>(std::string(host), options);
    auto store = c10::make_intrusive<c10d::PrefixStore>(std::string(prefix), tcp);
    auto gloo = c10d::ProcessGroupGloo::Options::create(Milliseconds(timeout_ms));
    gloo->threads = 1;
    gloo->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(bind));
    *out = new Group{c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, world, gloo)};
  });
}

char* midi_gloo_all_reduce(Group* group, at::Tensor* tensor, int64_t timeout_ms) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{*tensor};
    c10d::AllreduceOptions options;
    options.reduceOp = c10d::ReduceOp::SUM;
    options.timeout = Milliseconds(timeout_ms);
    group->gloo->allreduce(tensors, options)->wait();
  });
}

// `out` holds the parts of all ranks, one after the other, each as long as `part`.
char* midi_gloo_all_gather(Group* group, at::Tensor* out, at::Tensor* part, int64_t timeout_ms) {
  return guarded([&] {
    std::vector<at::Tensor> inputs{*part};
    std::vector<std::vector<at::Tensor>> outputs{out->chunk(group->gloo->getSize())};
    c10d::AllgatherOptions options;
    options.timeout = Milliseconds(timeout_ms);
    group->gloo->allgather(outputs, inputs, options)->wait();
  });
}

char* midi_gloo_broadcast(Group* group, at::Tensor* tensor, int root, int64_t timeout_ms) {
  return guarded([&] {
    std::vector<at::Tensor> tensors{*tensor};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    options.timeout = Milliseconds(timeout_ms);
    group->gloo->broadcast(tensors, options)->wait();
  });
}

void midi_gloo_free(Group* group) {
  try {
    delete group;
  } catch (...) {
  }
}

} // extern "C"
