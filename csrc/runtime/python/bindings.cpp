// dsa_fast_runtime._native: libdsa_runtime's Encoder for Python. Images are read, resized and embedded without the GIL.
#include <dlfcn.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "dsa_fast/encoder.h"
#include "dsa_fast/image.h"

namespace py = pybind11;

namespace {

using dsa_fast::Encoder;
using dsa_fast::Image;
using dsa_fast::ImageView;

// Where one image comes from: pixels, the bytes of a file, or a file.
struct Source {
  ImageView view;
  std::string_view encoded;
  std::string path;

  bool has_size(int64_t height, int64_t width) const {
    return view.pixels != nullptr && view.height == height && view.width == width;
  }
};

// Images as they were passed. Keeps their memory, so it is made and destroyed with the GIL.
struct Given {
  std::vector<Source> sources;
  std::vector<py::buffer_info> owners;
  bool single = false;
  const uint8_t* block = nullptr;  // all images, [N, height, width, 3] without gaps, if they lie so

  int64_t size() const { return static_cast<int64_t>(sources.size()); }
};

// Devices of DLPack.
constexpr int kHost = 1, kGpu = 2, kPinned = 3, kManaged = 13;

std::string shape_text(const std::vector<py::ssize_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

std::string type_name(py::handle object) { return Py_TYPE(object.ptr())->tp_name; }

bool is_file_bytes(py::handle object) {
  return PyBytes_Check(object.ptr()) || PyByteArray_Check(object.ptr()) ||
         (PyMemoryView_Check(object.ptr()) && PyMemoryView_GET_BUFFER(object.ptr())->ndim == 1);
}

// Where an array of DLPack is: 1 the host, 2 a GPU, ...; 0 for objects of another kind.
int dlpack_device(py::handle object) {
  if (!py::hasattr(object, "__dlpack__") || !py::hasattr(object, "__dlpack_device__")) return 0;
  return object.attr("__dlpack_device__")().cast<std::pair<int, int>>().first;
}

// The object itself if it is a buffer, or a view of a DLPack array such as a tensor, without a copy; none for others.
py::object as_buffer(py::handle object) {
  if (PyObject_CheckBuffer(object.ptr())) return py::reinterpret_borrow<py::object>(object);
  const int device = dlpack_device(object);
  if (device == 0) return py::none();
  if (device != kHost && device != kPinned) {
    throw py::type_error("images must be in the host's memory, got " + type_name(object) + " on another device");
  }
  try {
    return py::module_::import("numpy").attr("from_dlpack")(object);
  } catch (const py::error_already_set& error) {
    throw py::type_error("images must be uint8, in 0..255, got " + type_name(object) + ": " +
                         std::string(py::str(error.value())));
  }
}

// uint8 [H, W, 3] (or [B, H, W, 3]): one view an image.
void add_pixels(Given* given, py::handle object, bool bgr, bool batch) {
  py::buffer_info info = py::reinterpret_borrow<py::buffer>(object).request();
  if (info.itemsize != 1 || info.format != "B") {
    const std::string dtype = py::hasattr(object, "dtype") ? py::str(object.attr("dtype")).cast<std::string>()
                                                           : "the format '" + info.format + "'";
    throw py::type_error("images must be uint8, in 0..255, got " + dtype);
  }
  const auto& shape = info.shape;
  const bool one = info.ndim == 3;
  if (!(one || (batch && info.ndim == 4)) || shape.back() != 3 || shape[info.ndim - 3] == 0 ||
      shape[info.ndim - 2] == 0) {
    throw py::value_error(std::string("images must have shape [H, W, 3]") + (batch ? " or [B, H, W, 3]" : "") +
                          " as arrays, got " + shape_text(shape));
  }
  const auto strides = info.strides.end() - 3;
  ImageView view{static_cast<const uint8_t*>(info.ptr),
                 shape[info.ndim - 3],
                 shape[info.ndim - 2],
                 strides[0],
                 strides[1],
                 strides[2]};
  if (bgr) {
    view.pixels += 2 * view.channel;
    view.channel = -view.channel;
  }
  const int64_t count = one ? 1 : shape[0], step = one ? 0 : info.strides[0];
  for (int64_t i = 0; i < count; ++i, view.pixels += step) given->sources.push_back({view, {}, {}});
  if (!bgr && view.channel == 1 && view.column == 3 && view.row == view.width * 3 &&
      (count <= 1 || step == view.height * view.row)) {
    given->block = static_cast<const uint8_t*>(info.ptr);
  }
  given->owners.push_back(std::move(info));
}

// A file, by its bytes or its path. Returns false if the object is neither.
bool add_file(Given* given, py::handle object) {
  if (is_file_bytes(object)) {
    py::buffer_info info = py::reinterpret_borrow<py::buffer>(object).request();
    const auto bytes = static_cast<size_t>(info.size * info.itemsize);
    given->sources.push_back({{}, {static_cast<const char*>(info.ptr), bytes}, {}});
    if (given->sources.back().encoded.data() == nullptr) given->sources.back().encoded = "";
    given->owners.push_back(std::move(info));
    return true;
  }
  if (PyUnicode_Check(object.ptr()) || py::hasattr(object, "__fspath__")) {
    const auto name = py::reinterpret_steal<py::object>(PyOS_FSPath(object.ptr()));
    PyObject* encoded = nullptr;
    if (!name || PyUnicode_FSConverter(name.ptr(), &encoded) == 0) throw py::error_already_set();
    given->sources.push_back({{}, {}, py::reinterpret_steal<py::bytes>(encoded).cast<std::string>()});
    return true;
  }
  return false;
}

Given parse(py::handle images, bool bgr) {
  Given given;
  if (add_file(&given, images)) {
    given.single = true;
    return given;
  }
  if (const py::object buffer = as_buffer(images); !buffer.is_none()) {
    add_pixels(&given, buffer, bgr, true);
    given.single = given.owners.front().ndim == 3;
    return given;
  }
  if (!PySequence_Check(images.ptr()) || PyDict_Check(images.ptr())) {
    throw py::type_error("images must be an array, the path or the bytes of a file, or a sequence of these, got " +
                         type_name(images));
  }
  const auto items = py::reinterpret_borrow<py::sequence>(images);
  const size_t count = items.size();
  for (size_t i = 0; i < count; ++i) {
    const py::object item = items[i];
    const std::string where = "images[" + std::to_string(i) + "]: ";
    try {
      if (add_file(&given, item)) continue;
      const py::object buffer = as_buffer(item);
      if (buffer.is_none()) {
        throw py::type_error(
            "an image of a sequence must be an array of 3 axes, or the path or the bytes of a file, "
            "got " +
            type_name(item));
      }
      add_pixels(&given, buffer, bgr, false);
    } catch (const py::type_error& error) {
      throw py::type_error(where + error.what());
    } catch (const py::value_error& error) {
      throw py::value_error(where + error.what());
    }
  }
  given.block = nullptr;
  return given;
}

// Calls work(i) for i in 0..n-1 on several threads. Rethrows the error of the lowest i.
template <typename Work>
void in_parallel(int64_t n, int threads, const Work& work) {
  std::vector<std::exception_ptr> errors(static_cast<size_t>(n));
  std::atomic<int64_t> next{0};
  const auto loop = [&] {
    for (int64_t i = next++; i < n; i = next++) {
      try {
        work(i);
      } catch (...) {
        errors[static_cast<size_t>(i)] = std::current_exception();
      }
    }
  };
  std::vector<std::thread> others;
  for (int64_t t = 1; t < std::min<int64_t>(threads, n); ++t) {
    try {
      others.emplace_back(loop);
    } catch (const std::system_error&) {  // no more threads: the others suffice
      break;
    }
  }
  loop();
  for (std::thread& other : others) other.join();
  for (const std::exception_ptr& error : errors) {
    if (error != nullptr) std::rethrow_exception(error);
  }
}

// Reads, decodes and resizes image i: uint8 [height, width, 3].
void read(const Given& given, int64_t i, int64_t height, int64_t width, uint8_t* to) {
  const Source& source = given.sources[static_cast<size_t>(i)];
  try {
    if (source.view.pixels != nullptr) {
      dsa_fast::resize(source.view, height, width, to);
    } else if (source.encoded.data() != nullptr) {
      dsa_fast::resize(dsa_fast::decode_image(source.encoded, "the buffer"), height, width, to);
    } else {
      dsa_fast::resize(dsa_fast::read_image(source.path), height, width, to);
    }
  } catch (const std::exception& error) {
    if (given.single) throw;
    throw std::runtime_error("images[" + std::to_string(i) + "]: " + error.what());
  }
}

// float32 [N, dim], or [dim] for a single image.
py::array_t<float> embed(Encoder& encoder, py::handle images, std::string_view channels) {
  if (channels != "RGB" && channels != "BGR") {
    throw py::value_error("channels must be RGB or BGR, got '" + std::string(channels) + "'");
  }
  const Given given = parse(images, channels == "BGR");
  const int64_t n = given.size(), height = encoder.height(), width = encoder.width(), dim = encoder.dim();
  std::vector<py::ssize_t> shape{n, dim};
  if (given.single) shape = {dim};
  py::array_t<float> result(shape);
  float* vectors = result.mutable_data();
  const py::gil_scoped_release release;
  const auto fits = [&](const Source& source) { return source.has_size(height, width); };
  if (n > 0 && given.block != nullptr && fits(given.sources.front())) {
    encoder.embed(given.block, n, vectors);
    return result;
  }
  const bool copies = std::all_of(given.sources.begin(), given.sources.end(), fits);
  const int64_t piece = std::min(encoder.batch(), n), bytes = height * width * 3;
  std::vector<uint8_t> buffer(static_cast<size_t>(piece * bytes));
  for (int64_t start = 0; start < n; start += piece) {
    const int64_t count = std::min(piece, n - start);
    in_parallel(count, copies ? 1 : encoder.threads(),
                [&](int64_t i) { read(given, start + i, height, width, buffer.data() + i * bytes); });
    encoder.embed(buffer.data(), count, vectors + start * dim);
  }
  return result;
}

// An array on a GPU.
struct GpuArray {
  void* data;
  std::string type;  // such as "|u1"
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // in elements; empty without gaps
  bool writable;
  py::object owner;
};

// The parts of DLPack's ABI that are read: dlpack.h, version 1 and before.
struct DlTensor {
  void* data;
  struct {
    int32_t type, number;
  } device;
  int32_t axes;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } element;
  int64_t *shape, *strides;
  uint64_t offset;
};

GpuArray from_cuda_interface(py::handle object) {
  const auto about = object.attr("__cuda_array_interface__").cast<py::dict>();
  const auto data = about["data"].cast<std::pair<uintptr_t, bool>>();
  GpuArray array{reinterpret_cast<void*>(data.first),
                 about["typestr"].cast<std::string>(),
                 about["shape"].cast<std::vector<int64_t>>(),
                 {},
                 !data.second,
                 {}};
  if (about.contains("strides") && !about["strides"].is_none()) {
    array.strides = about["strides"].cast<std::vector<int64_t>>();
    for (int64_t& stride : array.strides) stride /= array.type.back() - '0';
  }
  return array;
}

// In the order of `stream`. The capsule frees the tensor when it is dropped: it is not marked as used.
GpuArray from_dlpack(py::handle object, uintptr_t stream) {
  const py::object owner = object.attr("__dlpack__")(py::arg("stream") = stream == 0 ? 1 : stream);
  const auto* tensor = static_cast<const DlTensor*>(PyCapsule_GetPointer(owner.ptr(), "dltensor"));
  if (tensor == nullptr) throw py::error_already_set();
  const auto [code, bits, lanes] = tensor->element;
  const char* kind = code == 1 ? "u" : code == 2 ? "f" : code == 0 ? "i" : "?";
  GpuArray array{static_cast<char*>(tensor->data) + tensor->offset,
                 (bits == 8 ? "|" : "<") + (kind + std::to_string(bits / 8)) + (lanes == 1 ? "" : "x"),
                 {tensor->shape, tensor->shape + tensor->axes},
                 {},
                 true,
                 owner};
  if (tensor->strides != nullptr) array.strides.assign(tensor->strides, tensor->strides + tensor->axes);
  return array;
}

// An array of a type and shape on a GPU; the first side may be -1, for any.
GpuArray on_gpu(py::handle object, const char* name, const char* type, const std::vector<int64_t>& shape, bool write,
                uintptr_t stream) {
  const std::string title(name);
  const bool interface = py::hasattr(object, "__cuda_array_interface__");
  const int device = interface ? kGpu : dlpack_device(object);
  if (device != kGpu && device != kManaged) {
    throw py::type_error(title + " must be an array on a GPU, with __cuda_array_interface__ or __dlpack__, got " +
                         type_name(object));
  }
  GpuArray array = interface ? from_cuda_interface(object) : from_dlpack(object, stream);
  if (array.type != type) throw py::type_error(title + " must be of the type " + type + ", got " + array.type);
  const auto& got = array.shape;
  if (got.size() != shape.size() || !std::equal(got.begin() + 1, got.end(), shape.begin() + 1) ||
      (shape[0] >= 0 && got[0] != shape[0])) {
    throw py::value_error(title + " must have shape [" + (shape[0] < 0 ? "N" : std::to_string(shape[0])) + ", ...] " +
                          shape_text({shape.begin(), shape.end()}) + ", got " + shape_text({got.begin(), got.end()}));
  }
  int64_t step = 1;
  for (size_t axis = array.strides.size(); axis-- > 0; step *= got[axis]) {
    if (got[axis] > 1 && array.strides[axis] != step) throw py::value_error(title + " must be contiguous");
  }
  if (write && !array.writable) throw py::value_error(title + " must be writable");
  return array;
}

void enqueue(Encoder& encoder, py::handle images, py::handle out, uintptr_t stream) {
  const dsa_fast::Sidecar& sidecar = encoder.sidecar();
  std::vector<int64_t> shape{-1, sidecar.height, sidecar.width, 3};
  if (sidecar.layout == dsa_fast::Layout::kNCHW) shape = {-1, 3, sidecar.height, sidecar.width};
  const char* type = sidecar.input_type == dsa_fast::InputType::kUint8 ? "|u1" : "<f4";
  const GpuArray from = on_gpu(images, "images", type, shape, false, stream);
  const int64_t n = from.shape.front();
  const GpuArray to = on_gpu(out, "out", "<f4", {n, encoder.dim()}, true, stream);
  const py::gil_scoped_release release;
  encoder.enqueue(from.data, n, static_cast<float*>(to.data), reinterpret_cast<void*>(stream));
}

Encoder load(const std::string& path, const std::string& device, int64_t batch, int threads,
             const std::string& precision) {
  const py::gil_scoped_release release;
  return Encoder::load(path, {device, batch, threads, precision});
}

// Loads a library for all that is loaded later; says why it can't be.
std::string preload(const std::string& path) {
  return dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) == nullptr ? dlerror() : "";
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  // What does not fit is a ValueError, as in dsa_fast.
  py::register_local_exception_translator([](std::exception_ptr pending) {
    try {
      if (pending != nullptr) std::rethrow_exception(pending);
    } catch (const py::builtin_exception&) {
      throw;
    } catch (const std::runtime_error& error) {
      PyErr_SetString(PyExc_ValueError, error.what());
    }
  });
  module.attr("__version__") = DSA_FAST_VERSION;
  module.def("preload", &preload);
  py::class_<Encoder>(module, "Encoder")
      .def(py::init(&load), py::arg("path"), py::arg("device"), py::arg("batch"), py::arg("threads"),
           py::arg("precision"))
      .def("__call__", &embed, py::arg("images"), py::kw_only(), py::arg("channels") = "RGB")
      .def("enqueue", &enqueue, py::arg("images"), py::arg("out"), py::arg("stream") = 0)
      .def_property_readonly("kind", [](const Encoder& encoder) { return encoder.sidecar().kind; })
      .def_property_readonly("size",
                             [](const Encoder& encoder) { return std::pair(encoder.height(), encoder.width()); })
      .def_property_readonly("dim", &Encoder::dim)
      .def_property_readonly("run_batch", &Encoder::batch)
      .def_property_readonly("threads", &Encoder::threads)
      .def_property_readonly("precision", &Encoder::precision)
      .def_property_readonly("description", &Encoder::description);
}
