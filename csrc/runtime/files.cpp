#include "files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <random>
#include <stdexcept>
#include <system_error>

namespace dsa_fast {
namespace {

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

// Version 1.0 of the format; room for any number of rows, and a multiple of 64 as in NumPy.
constexpr size_t kNpyHeader = 128;

}  // namespace

std::string read_file(const std::string& path, int64_t limit) {
  const std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "rb"));
  struct stat status{};
  if (file == nullptr || fstat(fileno(file.get()), &status) != 0) {
    throw std::runtime_error(path + " cannot be read: " + std::strerror(errno));
  }
  if (S_ISDIR(status.st_mode)) throw std::runtime_error(path + " must be a file, got a folder");
  if (status.st_size > limit) {
    throw std::runtime_error(path + " must have at most " + std::to_string(limit) + " bytes, got " +
                             std::to_string(status.st_size));
  }
  // A pipe's size is 0: its bytes are counted as they come.
  std::string bytes(static_cast<size_t>(status.st_size), '\0');
  size_t size = std::fread(bytes.data(), 1, bytes.size(), file.get());
  bytes.resize(size);
  char more[4096];
  while ((size = std::fread(more, 1, sizeof(more), file.get())) > 0) {
    bytes.append(more, size);
    if (static_cast<int64_t>(bytes.size()) > limit) {
      throw std::runtime_error(path + " must have at most " + std::to_string(limit) + " bytes, got more");
    }
  }
  if (std::ferror(file.get())) throw std::runtime_error(path + " cannot be read: " + std::strerror(errno));
  return bytes;
}

AtomicFile::AtomicFile(const std::string& path) : path_(path) {
  const std::filesystem::path target(path);
  std::error_code error;
  if (target.has_parent_path()) std::filesystem::create_directories(target.parent_path(), error);
  if (error) {
    throw std::runtime_error(path + " cannot be written: " + target.parent_path().string() + ": " + error.message());
  }
  if (std::filesystem::is_directory(target, error)) throw std::runtime_error(path + " must be a file, got a folder");
  std::random_device random;
  const std::string name =
      "." + target.stem().string() + "." + std::to_string(getpid()) + "-" + std::to_string(random());
  temporary_ = (target.parent_path() / (name + target.extension().string())).string();
  const int descriptor = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  file_ = descriptor < 0 ? nullptr : fdopen(descriptor, "wb");
  if (file_ == nullptr) {
    const std::string reason = std::strerror(errno);
    if (descriptor >= 0) {
      ::close(descriptor);
      unlink(temporary_.c_str());
    }
    throw std::runtime_error(path + " cannot be written: " + reason);
  }
}

AtomicFile::~AtomicFile() {
  if (file_ != nullptr) std::fclose(file_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

void AtomicFile::fail(const char* what) {
  throw std::runtime_error(path_ + " cannot be " + what + ": " + std::strerror(errno));
}

void AtomicFile::write(const void* data, size_t bytes) {
  if (std::fwrite(data, 1, bytes, file_) != bytes) fail("written");
}

void AtomicFile::seek(int64_t position) {
  if (fseeko(file_, static_cast<off_t>(position), SEEK_SET) != 0) fail("written");
}

void AtomicFile::close() {
  if (file_ == nullptr) return;
  std::FILE* file = file_;
  file_ = nullptr;
  if (std::fclose(file) != 0) fail("written");
}

void AtomicFile::commit() {
  close();
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) fail("written");
  temporary_.clear();
}

NpyWriter::NpyWriter(const std::string& path, int64_t dim) : file_(path), dim_(dim) { write_header(); }

void NpyWriter::write_header() {
  const uint16_t one = 1;
  uint8_t first;
  std::memcpy(&first, &one, 1);
  std::string header = "{'descr': '" + std::string(first == 1 ? "<" : ">") + "f4', 'fortran_order': False, 'shape': (" +
                       std::to_string(rows_) + ", " + std::to_string(dim_) + "), }";
  header.resize(kNpyHeader - 10 - 1, ' ');
  header += '\n';
  const char start[10] = {'\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0, kNpyHeader - 10, 0};
  file_.write(start, sizeof(start));
  file_.write(header.data(), header.size());
}

void NpyWriter::write(const float* rows, int64_t n) {
  file_.write(rows, static_cast<size_t>(n * dim_) * sizeof(float));
  rows_ += n;
}

void NpyWriter::close() {
  file_.seek(0);
  write_header();
  file_.close();
}

void NpyWriter::commit() { file_.commit(); }

}  // namespace dsa_fast
