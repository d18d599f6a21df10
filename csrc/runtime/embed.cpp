// The command dsa_embed: images in, unit vectors out.
#include <getopt.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "dsa_fast/encoder.h"
#include "dsa_fast/image.h"
#include "files.h"

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr const char* kHelp =
    R"(dsa_embed: turns images of people into vectors whose dot product tells how alike the people are.

usage: dsa_embed --engine FILE --out FILE.npy [options] IMAGE|FOLDER...
       dsa_embed --engine FILE --out FILE.npy [options] --list FILE
       dsa_embed --engine FILE --benchmark [options]

The engine is a file that `dsa-fast export` wrote, with its sidecar FILE.json next to it: .onnx runs on the CPU, .engine
on a CUDA device. The sidecar is checked first: the file's size and SHA-256, the engine's inputs and outputs.

Images are JPEG or PNG files. A folder stands for all .jpg, .jpeg and .png files in it and in its folders, by name.
Each image is resized to what the engine takes, exactly as in training.

  --engine FILE      the exported file
  --out FILE.npy     the vectors, float32 [images, dim], each of length 1: numpy.load reads them. The images' names go
                     to FILE.txt, one a line, in the same order. Both appear when they are whole
  --list FILE        a file with one image's path a line; - reads the standard input
  --batch N          images run at once; by default 64 on a CUDA device and 32 on the CPU, if the engine takes them
  --benchmark        times the engine on random images in memory, for --seconds, at --batch or at 1, 8 and the default:
                     one line of JSON a batch size, with the times that half and 99 % of the runs stay below
  --seconds S        of each batch size of the benchmark; by default 5
  --threads N        threads that decode images, and those of a CPU engine; by default as many as the process may use
  --device D         cpu, cuda or cuda:N; by default what the engine runs on
  --precision P      what a CPU engine computes in: fp32, fp16 or bf16; by default what it was exported in
  --quiet            no progress
  --help, --version

examples:
  dsa_embed --engine mf.onnx --out gallery.npy data/market/bounding_box_test
  dsa_embed --engine mf.engine --benchmark --batch 1
  find crops -name '*.jpg' -newer last | dsa_embed --engine mf.engine --out new.npy --list - --batch 64

exit status: 0, all images are in the file; 1, nothing was written; 2, the options are wrong; 3, the file is written,
but without the images that could not be read, which were named; 130 or 143, interrupted, nothing was written.
)";

struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  std::string engine, out, list;
  std::vector<std::string> inputs;
  dsa_fast::EncoderOptions encoder;
  bool quiet = false, benchmark = false;
  int64_t seconds = 5;
};

volatile std::sig_atomic_t interrupted = 0;
void interrupt(int signal) { interrupted = signal; }

int64_t whole_number(const char* option, const char* text) {
  const std::string digits(text);
  if (digits.empty() || digits.size() > 6 || digits.find_first_not_of("0123456789") != std::string::npos ||
      std::stoi(digits) < 1) {
    throw UsageError(std::string("--") + option + " must be a whole number in 1..999999, got " + digits);
  }
  return std::stoi(digits);
}

Options parse(int argc, char** argv) {
  enum {
    kEngine = 256,
    kOut,
    kList,
    kBatch,
    kThreads,
    kDevice,
    kPrecision,
    kQuiet,
    kBenchmark,
    kSeconds,
    kHelpOption,
    kVersion
  };
  const option names[] = {{"engine", required_argument, nullptr, kEngine},
                          {"out", required_argument, nullptr, kOut},
                          {"list", required_argument, nullptr, kList},
                          {"batch", required_argument, nullptr, kBatch},
                          {"threads", required_argument, nullptr, kThreads},
                          {"device", required_argument, nullptr, kDevice},
                          {"precision", required_argument, nullptr, kPrecision},
                          {"quiet", no_argument, nullptr, kQuiet},
                          {"benchmark", no_argument, nullptr, kBenchmark},
                          {"seconds", required_argument, nullptr, kSeconds},
                          {"help", no_argument, nullptr, kHelpOption},
                          {"version", no_argument, nullptr, kVersion},
                          {nullptr, 0, nullptr, 0}};
  Options options;
  int chosen = 0;
  while ((chosen = getopt_long(argc, argv, "h", names, nullptr)) != -1) {
    switch (chosen) {
      case kEngine:
        options.engine = optarg;
        break;
      case kOut:
        options.out = optarg;
        break;
      case kList:
        options.list = optarg;
        break;
      case kBatch:
        options.encoder.batch = whole_number("batch", optarg);
        break;
      case kThreads:
        options.encoder.threads = static_cast<int>(whole_number("threads", optarg));
        break;
      case kDevice:
        options.encoder.device = optarg;
        break;
      case kPrecision:
        options.encoder.precision = optarg;
        break;
      case kQuiet:
        options.quiet = true;
        break;
      case kBenchmark:
        options.benchmark = true;
        break;
      case kSeconds:
        options.seconds = whole_number("seconds", optarg);
        break;
      case 'h':
      case kHelpOption:
        std::cout << kHelp;
        std::exit(0);
      case kVersion:
        std::cout << "dsa_embed " DSA_FAST_VERSION "\n";
        std::exit(0);
      default:
        throw UsageError("");  // getopt has printed the reason
    }
  }
  options.inputs.assign(argv + optind, argv + argc);
  if (options.engine.empty()) throw UsageError("--engine must name an engine's file");
  if (options.benchmark) {
    if (!options.out.empty() || !options.list.empty() || !options.inputs.empty())
      throw UsageError("--benchmark makes its own images and writes no file: --out and images must not be given");
    return options;
  }
  if (fs::path(options.out).extension() != ".npy") throw UsageError("--out must name a .npy file, got " + options.out);
  if (options.inputs.empty() == options.list.empty()) {
    throw UsageError("images, or --list, must be given, and not both");
  }
  return options;
}

bool is_image_name(const fs::path& path) {
  std::string suffix = path.extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(), [](unsigned char c) { return std::tolower(c); });
  return suffix == ".jpg" || suffix == ".jpeg" || suffix == ".png";
}

std::vector<std::string> find_images(const Options& options) {
  std::vector<std::string> images;
  if (!options.list.empty()) {
    const std::string text = dsa_fast::read_file(options.list == "-" ? "/dev/stdin" : options.list, int64_t{1} << 32);
    for (size_t start = 0; start < text.size();) {
      const size_t end = std::min(text.find('\n', start), text.size());
      std::string line = text.substr(start, end - start);
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (!line.empty()) images.push_back(std::move(line));
      start = end + 1;
    }
  }
  for (const std::string& input : options.inputs) {
    if (!fs::is_directory(input)) {
      images.push_back(input);
      continue;
    }
    std::vector<std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(input)) {
      if (entry.is_regular_file() && is_image_name(entry.path())) found.push_back(entry.path().string());
    }
    if (found.empty()) throw std::runtime_error(input + " must hold .jpg, .jpeg or .png files, got none");
    std::sort(found.begin(), found.end());
    images.insert(images.end(), found.begin(), found.end());
  }
  if (images.empty()) throw std::runtime_error(options.list + " must name at least one image, got none");
  for (const std::string& image : images) {
    if (image.find('\n') != std::string::npos) throw std::runtime_error(image + " must have no line break in its name");
  }
  return images;
}

// Decodes and resizes images a few batches in advance.
class Loader {
 public:
  struct Batch {
    int64_t first = 0, count = 0, left = 0;  // images; of them not yet decoded
    std::vector<uint8_t> images;             // [batch, height, width, 3]
    std::vector<std::string> errors;         // [count], empty for an image that could be read
  };

  Loader(const std::vector<std::string>& paths, int64_t batch, int64_t height, int64_t width, int threads)
      : paths_(paths), size_(batch), height_(height), width_(width), ring_(kAhead) {
    for (Batch& slot : ring_) {
      slot.images.resize(static_cast<size_t>(batch * height * width * 3));
      slot.errors.resize(static_cast<size_t>(batch));
    }
    for (int64_t b = 0; b < kAhead; ++b) open(b);
    for (int i = 0; i < threads; ++i) workers_.emplace_back([this] { work(); });
  }

  ~Loader() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    more_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int64_t batches() const { return (total() + size_ - 1) / size_; }

  // The b-th batch, decoded. Call with 0, 1, ... release(b) lets its memory be used again.
  Batch& wait(int64_t b) {
    Batch& batch = ring_[static_cast<size_t>(b % kAhead)];
    std::unique_lock<std::mutex> lock(mutex_);
    ready_.wait(lock, [&] { return batch.left == 0; });
    return batch;
  }

  void release(int64_t b) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      open(b + kAhead);
    }
    more_.notify_all();
  }

 private:
  static constexpr int64_t kAhead = 3;

  int64_t total() const { return static_cast<int64_t>(paths_.size()); }

  void open(int64_t b) {
    Batch& batch = ring_[static_cast<size_t>(b % kAhead)];
    batch.first = std::min(b * size_, total());
    batch.count = batch.left = std::min(size_, total() - batch.first);
    limit_ = batch.first + batch.count;
  }

  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      more_.wait(lock, [&] { return stopping_ || next_ < limit_ || limit_ == total(); });
      if (stopping_ || next_ >= limit_) return;
      const int64_t i = next_++;
      Batch& batch = ring_[static_cast<size_t>(i / size_ % kAhead)];
      lock.unlock();
      std::string error = load(i, batch);
      lock.lock();
      batch.errors[static_cast<size_t>(i - batch.first)] = std::move(error);
      if (--batch.left == 0) ready_.notify_all();
    }
  }

  std::string load(int64_t i, Batch& batch) {
    try {
      const dsa_fast::Image image = dsa_fast::read_image(paths_[static_cast<size_t>(i)]);
      dsa_fast::resize(image, height_, width_, batch.images.data() + (i - batch.first) * height_ * width_ * 3);
      return "";
    } catch (const std::exception& error) {
      return error.what();
    }
  }

  const std::vector<std::string>& paths_;
  const int64_t size_, height_, width_;
  std::vector<Batch> ring_;
  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable more_, ready_;
  int64_t next_ = 0, limit_ = 0;  // images below `limit` have a place
  bool stopping_ = false;
};

void show_progress(int64_t done, int64_t total, double seconds) {
  std::fprintf(stderr, "\r%lld of %lld images, %.0f per second ", static_cast<long long>(done),
               static_cast<long long>(total), static_cast<double>(done) / std::max(seconds, 1e-9));
}

int embed(const Options& options) {
  const std::vector<std::string> images = find_images(options);
  dsa_fast::Encoder encoder = dsa_fast::Encoder::load(options.engine, options.encoder);
  if (!options.quiet)
    std::cerr << options.engine << ": " << encoder.description() << ", batches of " << encoder.batch() << "\n";

  const int64_t dim = encoder.dim(), bytes = encoder.height() * encoder.width() * 3;
  dsa_fast::NpyWriter vectors(options.out, dim);
  dsa_fast::AtomicFile names(fs::path(options.out).replace_extension(".txt").string());
  const int threads = options.encoder.threads > 0 ? options.encoder.threads
                                                  : std::max(static_cast<int>(std::thread::hardware_concurrency()), 1);
  const auto total = static_cast<int64_t>(images.size());
  const int64_t size = std::min(encoder.batch(), total);
  Loader loader(images, size, encoder.height(), encoder.width(), threads);
  std::vector<float> out(static_cast<size_t>(size * dim));
  const bool terminal = isatty(STDERR_FILENO) != 0 && !options.quiet;
  const Clock::time_point start = Clock::now();
  Clock::time_point shown = start;
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  int64_t unreadable = 0;
  for (int64_t b = 0; b < loader.batches(); ++b) {
    Loader::Batch& batch = loader.wait(b);
    if (interrupted != 0) return 128 + interrupted;
    int64_t kept = 0;
    for (int64_t i = 0; i < batch.count; ++i) {
      const std::string& error = batch.errors[static_cast<size_t>(i)];
      if (!error.empty()) {
        std::cerr << (terminal ? "\r\033[K" : "") << "dsa_embed: " << error << "\n";
        ++unreadable;
        continue;
      }
      const std::string line = images[static_cast<size_t>(batch.first + i)] + "\n";
      names.write(line.data(), line.size());
      if (kept != i)
        std::memcpy(batch.images.data() + kept * bytes, batch.images.data() + i * bytes, static_cast<size_t>(bytes));
      ++kept;
    }
    encoder.embed(batch.images.data(), kept, out.data());
    loader.release(b);
    vectors.write(out.data(), kept);
    if (terminal && Clock::now() - shown > std::chrono::milliseconds(200)) {
      shown = Clock::now();
      show_progress(std::min((b + 1) * size, total), total, seconds());
    }
  }
  if (vectors.rows() == 0) throw std::runtime_error("none of the images could be read");
  const double took = seconds();
  vectors.close();
  names.close();
  if (interrupted != 0) return 128 + interrupted;
  names.commit();
  vectors.commit();
  if (!options.quiet) {
    if (terminal) std::cerr << "\r\033[K";
    std::fprintf(stderr, "%s: %lld vectors of %lld numbers, %.1f s, %.1f images per second\n", options.out.c_str(),
                 static_cast<long long>(vectors.rows()), static_cast<long long>(dim), took,
                 static_cast<double>(total) / std::max(took, 1e-9));
  }
  if (unreadable > 0) {
    std::cerr << "dsa_embed: " << unreadable << " of " << total << " images could not be read and are not in "
              << options.out << "\n";
    return 3;
  }
  return 0;
}

// The least time that `share` of the sorted times stay at or below.
double percentile(const std::vector<double>& sorted, double share) {
  const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(sorted.size())));
  return sorted[std::max<size_t>(rank, 1) - 1];
}

int benchmark(const Options& options) {
  dsa_fast::EncoderOptions largest = options.encoder;
  const dsa_fast::Sidecar sidecar = dsa_fast::read_sidecar(options.engine);
  if (largest.batch == 0) largest.batch = sidecar.batch.max;
  dsa_fast::Encoder encoder = dsa_fast::Encoder::load(options.engine, largest);
  std::cerr << options.engine << ": " << encoder.description() << "\n";
  std::vector<int64_t> sizes{options.encoder.batch};
  if (options.encoder.batch == 0) {
    sizes = {1, 8, sidecar.kind == "onnx" ? 32 : 64};
    for (int64_t& size : sizes) size = std::min(std::max(size, sidecar.batch.min), sidecar.batch.max);
    sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  }
  std::mt19937 random(0);
  for (const int64_t size : sizes) {
    std::vector<uint8_t> images(static_cast<size_t>(size * encoder.height() * encoder.width() * 3));
    for (uint8_t& value : images) value = static_cast<uint8_t>(random());
    std::vector<float> vectors(static_cast<size_t>(size * encoder.dim()));
    std::vector<double> times;
    const auto measure = [&](double seconds, size_t least) {
      times.clear();
      const Clock::time_point start = Clock::now();
      for (Clock::time_point now = start;
           interrupted == 0 &&
           (times.size() < least || std::chrono::duration<double>(now - start).count() < seconds);) {
        encoder.embed(images.data(), size, vectors.data());
        const Clock::time_point end = Clock::now();
        times.push_back(std::chrono::duration<double, std::milli>(end - now).count());
        now = end;
      }
      return std::chrono::duration<double>(Clock::now() - start).count();
    };
    measure(static_cast<double>(options.seconds) / 5, 3);  // the first runs allocate, tune and capture
    const double took = measure(static_cast<double>(options.seconds), 3);
    if (interrupted != 0) return 128 + interrupted;
    const auto runs = static_cast<double>(times.size());
    std::sort(times.begin(), times.end());
    std::printf(
        "{\"batch\": %lld, \"runs\": %zu, \"p50_ms\": %.4f, \"p99_ms\": %.4f, \"mean_ms\": %.4f, "
        "\"images_per_second\": %.1f}\n",
        static_cast<long long>(size), times.size(), percentile(times, 0.5), percentile(times, 0.99), 1000 * took / runs,
        runs * static_cast<double>(size) / took);
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const Options options = parse(argc, argv);
    std::signal(SIGINT, interrupt);
    std::signal(SIGTERM, interrupt);
    return options.benchmark ? benchmark(options) : embed(options);
  } catch (const UsageError& error) {
    if (*error.what() != '\0') std::cerr << "dsa_embed: " << error.what() << "\n";
    std::cerr << "dsa_embed --help says more\n";
    return 2;
  } catch (const std::invalid_argument& error) {
    std::cerr << "dsa_embed: " << error.what() << "\n";
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "dsa_embed: " << error.what() << "\n";
    return 1;
  }
}
