// Joins operators written in Rust to torch's autograd: a torch::autograd::Function whose forward and
// backward are callbacks. Every entry point and every callback reports failure by value; no exception
// and no panic crosses the border.

#include <torch/csrc/autograd/custom_function.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

namespace {
constexpr size_t kMostTensors = 64;
constexpr size_t kMessageBytes = 2048;
}  // namespace

extern "C" {

// A callback returns 0, or another number after it wrote a message that ends with a zero byte.
// Tensors that it reads stay the caller's; tensors that it writes become the caller's.
struct midi_op_calls {
  int (*forward)(const void* op, Tensor* const* inputs, size_t n_inputs, Tensor** outputs, size_t* n_outputs,
                 Tensor** kept, size_t* n_kept, size_t capacity, char* message, size_t message_bytes);
  int (*backward)(const void* op, Tensor* const* kept, size_t n_kept, Tensor* const* output_grads, size_t n_outputs,
                  const uint8_t* wanted, Tensor** input_grads, size_t n_inputs, char* message, size_t message_bytes);
  void (*drop)(void* op);
};

}  // extern "C"

namespace {

// Owns the Rust operator for as long as any graph refers to it.
struct Operator : torch::CustomClassHolder {
  Operator(void* op, midi_op_calls calls) : op(op), calls(calls) {}
  ~Operator() override { calls.drop(op); }
  void* op;
  midi_op_calls calls;
};

variable_list take(Tensor** tensors, size_t count) {
  variable_list taken;
  taken.reserve(count);
  for (size_t i = 0; i < count; i++) {
    taken.push_back(tensors[i] ? std::move(*tensors[i]) : Tensor());
    delete tensors[i];
  }
  return taken;
}

std::vector<Tensor*> lend(variable_list& tensors) {
  std::vector<Tensor*> lent;
  lent.reserve(tensors.size());
  for (Tensor& tensor : tensors) lent.push_back(tensor.defined() ? &tensor : nullptr);
  return lent;
}

struct RustFunction : torch::autograd::Function<RustFunction> {
  static variable_list forward(AutogradContext* ctx, at::TensorList arguments, c10::intrusive_ptr<Operator> rust) {
    variable_list inputs(arguments.begin(), arguments.end());
    Tensor* outputs[kMostTensors] = {};
    Tensor* kept[kMostTensors] = {};
    size_t n_outputs = 0, n_kept = 0;
    char message[kMessageBytes] = {};
    int failed = rust->calls.forward(rust->op, lend(inputs).data(), inputs.size(), outputs, &n_outputs, kept, &n_kept,
                                     kMostTensors, message, sizeof message);
    TORCH_CHECK(!failed, message);
    variable_list results = take(outputs, n_outputs);
    ctx->save_for_backward(take(kept, n_kept));
    ctx->saved_data["operator"] = c10::IValue::make_capsule(rust);
    ctx->saved_data["inputs"] = static_cast<int64_t>(inputs.size());
    // Outputs that nobody used come to backward as undefined, not as zeros.
    ctx->set_materialize_grads(false);
    return results;
  }

  static variable_list backward(AutogradContext* ctx, variable_list output_grads) {
    auto capsule = ctx->saved_data["operator"].toCapsule();
    auto* rust = static_cast<Operator*>(capsule.get());
    size_t n_inputs = static_cast<size_t>(ctx->saved_data["inputs"].toInt());
    variable_list kept = ctx->get_saved_variables();
    std::vector<uint8_t> wanted(n_inputs);
    for (size_t i = 0; i < n_inputs; i++) wanted[i] = ctx->needs_input_grad(i);
    std::vector<Tensor*> input_grads(n_inputs, nullptr);
    char message[kMessageBytes] = {};
    int failed =
        rust->calls.backward(rust->op, lend(kept).data(), kept.size(), lend(output_grads).data(), output_grads.size(),
                             wanted.data(), input_grads.data(), n_inputs, message, sizeof message);
    TORCH_CHECK(!failed, message);
    variable_list grads = take(input_grads.data(), n_inputs);
    grads.emplace_back();  // The operator itself is an argument of forward, and has no gradient.
    return grads;
  }
};

}  // namespace

extern "C" {

// Applies `op`, which this call owns from here on. Returns null, or a message to give to midi_op_free.
char* midi_op_apply(void* op, midi_op_calls calls, Tensor* const* inputs, size_t n_inputs, Tensor** outputs,
                    size_t capacity, size_t* n_outputs) {
  try {
    auto rust = c10::make_intrusive<Operator>(op, calls);
    variable_list arguments;
    for (size_t i = 0; i < n_inputs; i++) arguments.push_back(*inputs[i]);
    variable_list results = RustFunction::apply(at::TensorList(arguments), rust);
    TORCH_CHECK(results.size() <= capacity, "too many outputs");
    for (size_t i = 0; i < results.size(); i++) outputs[i] = new Tensor(std::move(results[i]));
    *n_outputs = results.size();
    return nullptr;
  } catch (const c10::Error& e) {
    return strdup(e.what_without_backtrace());
  } catch (const std::exception& e) {
    return strdup(e.what());
  } catch (...) {
    return strdup("an unknown exception");
  }
}

void midi_op_free(char* message) { free(message); }

// Leaves `tensor`, a leaf of the graph, without a gradient.
void midi_forget_gradient(Tensor* tensor) { tensor->mutable_grad().reset(); }

}  // extern "C"
