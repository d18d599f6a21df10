// Reading a whole file, and writing one so that its name never shows half of it.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace dsa_fast {

// The bytes of a file; throws std::runtime_error, also where there are more than `limit`.
std::string read_file(const std::string& path, int64_t limit);

// A temporary file beside `path`, whose folders are made. commit() gives it the name; without, it is removed. Throws
// std::runtime_error where the disk does not take it.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(const void* data, size_t bytes);
  void seek(int64_t position);  // from the start
  void close();                 // all is on its way to the disk; only commit() may follow
  void commit();                // closes too

 private:
  [[noreturn]] void fail(const char* what);
  std::string path_, temporary_;
  std::FILE* file_ = nullptr;
};

// Writes float32 [N, dim] as NumPy's .npy, row by row; N need not be known before.
class NpyWriter {
 public:
  NpyWriter(const std::string& path, int64_t dim);
  void write(const float* rows, int64_t n);  // [n, dim]
  int64_t rows() const { return rows_; }
  void close();  // the header is written
  void commit();

 private:
  void write_header();
  AtomicFile file_;
  int64_t dim_, rows_ = 0;
};

}  // namespace dsa_fast
