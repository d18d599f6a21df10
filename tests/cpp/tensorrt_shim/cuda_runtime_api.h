// The part of the CUDA runtime that csrc/runtime/tensorrt.cpp uses, on the CPU. A stream does its work only when the
// program waits for it, as late as CUDA may: a program that does not wait reads and writes the wrong bytes.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <vector>

enum cudaError_t { cudaSuccess = 0, cudaErrorNoDevice = 100, cudaErrorStreamCaptureUnsupported = 900 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum { cudaStreamNonBlocking = 1, cudaEventDisableTiming = 2, cudaStreamCaptureModeThreadLocal = 1 };

using ShimWork = std::function<void()>;
struct ShimGraph {
  std::vector<ShimWork> work;
};
struct ShimStream {
  std::deque<ShimWork> work;
  uint64_t asked = 0, done = 0;
  ShimGraph* capturing = nullptr;

  void ask(ShimWork what) {
    if (capturing != nullptr) {
      capturing->work.push_back(std::move(what));
      return;
    }
    work.push_back(std::move(what));
    ++asked;
  }
  void run_until(uint64_t count) {
    while (done < count) {
      const ShimWork next = std::move(work.front());
      work.pop_front();
      ++done;
      next();
    }
  }
};
struct ShimEvent {
  ShimStream* stream = nullptr;
  uint64_t position = 0;
};
using cudaStream_t = ShimStream*;
using cudaEvent_t = ShimEvent*;
using cudaGraph_t = ShimGraph*;
using cudaGraphExec_t = ShimGraph*;
struct cudaDeviceProp {
  char name[256];
  int major, minor;
};

inline int shim_devices = 1, shim_launches = 0;
inline thread_local int shim_current = 0;
inline cudaError_t cudaGetDevice(int* device) {
  *device = shim_current;
  return shim_devices > 0 ? cudaSuccess : cudaErrorNoDevice;
}
inline cudaError_t cudaSetDevice(int device) {
  if (device >= shim_devices) return cudaErrorNoDevice;
  shim_current = device;
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"Shim", 9, 0};
  return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t error) { return error == cudaErrorNoDevice ? "no device" : "error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaMalloc(void** data, size_t bytes) {
  *data = std::malloc(bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMallocHost(void** data, size_t bytes) { return cudaMalloc(data, bytes); }
inline cudaError_t cudaFree(void* data) {
  std::free(data);
  return cudaSuccess;
}
inline cudaError_t cudaFreeHost(void* data) { return cudaFree(data); }
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new ShimStream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  stream->run_until(stream->asked);
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  stream->run_until(stream->asked);
  return cudaSuccess;
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new ShimEvent;
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  *event = {stream, stream->asked};
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->stream != nullptr) event->stream->run_until(event->position);
  return cudaSuccess;
}
inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const ShimEvent now = *event;
  if (now.stream != stream && now.stream != nullptr) stream->ask([now] { now.stream->run_until(now.position); });
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  stream->ask([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  stream->ask([=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, int) {
  stream->capturing = new ShimGraph;
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = stream->capturing;
  stream->capturing = nullptr;
  return cudaSuccess;
}
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* launch, cudaGraph_t graph, unsigned) {
  *launch = new ShimGraph(*graph);
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t launch) { return cudaGraphDestroy(launch); }
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t launch, cudaStream_t stream) {
  ++shim_launches;
  for (const ShimWork& work : launch->work) stream->ask(work);
  return cudaSuccess;
}
