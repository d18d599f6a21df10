// Reads whole files, and writes files atomically.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace dsa_fast {

// The bytes of a file. Throws std::runtime_error, also if there are more than `limit`.
std::string read_file(const std::string& path, int64_t limit);

// A temporary file in the folder of `path`, which is created. commit() renames it to `path`; otherwise it is removed.
// Throws std::runtime_error if it cannot be written.
class AtomicFile {
 public:
  explicit AtomicFile(const std::string& path);
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile();

  void write(const void* data, size_t bytes);
  void seek(int64_t position);  // from the start
  void close();                 // only commit() may follow
  void commit();                // also closes

 private:
  [[noreturn]] void fail(const char* what);
  std::string path_, temporary_;
  std::FILE* file_ = nullptr;
};

// Writes float32 [N, dim] as NumPy's .npy, row by row; N need not be known at the start.
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
