// What a GPU needs of libtorch that tch does not offer: its CUDA half, which no program loads by itself, and the
// stream on which torch works at the moment. Only headers of the CPU build are used.
//
// Every function returns null, or an error text that midi_op_free takes back.

#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstring>
#include <exception>

extern "C" {

// The stream of `device` as a CUstream; null is the legacy default stream.
char* midi_cuda_stream(int device, void** out) {
  try {
    c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
    auto index = static_cast<c10::DeviceIndex>(device);
    *out = cuda.getStreamNativeHandle(cuda.getStream(c10::Device(c10::DeviceType::CUDA, index)));
    return nullptr;
  } catch (const std::exception& error) {
    return strdup(error.what());
  }
}

// Makes `device` the one that this thread's operators without a device of their own work on.
char* midi_cuda_set_device(int device) {
  try {
    c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
    cuda.setDevice(c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device)));
    return nullptr;
  } catch (const std::exception& error) {
    return strdup(error.what());
  }
}

}  // extern "C"
