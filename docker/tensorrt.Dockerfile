# The C++ runtime and dsa_embed for TensorRT engines and ONNX files, on NVIDIA's image with TensorRT and CUDA.
#
#   docker build -f docker/tensorrt.Dockerfile -t dsa-fast-tensorrt .
#   docker run --rm --gpus all -v "$PWD:/data" dsa-fast-tensorrt --engine /data/mf.engine --benchmark
#
# The engine must be built by the same version of TensorRT: choose the image's tag by it.
ARG TENSORRT=25.10-py3
FROM nvcr.io/nvidia/tensorrt:${TENSORRT} AS build
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends g++ cmake nlohmann-json3-dev libssl-dev libjpeg-dev libpng-dev && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY CMakeLists.txt CMakeLists.txt
COPY cmake cmake
COPY csrc csrc
RUN cmake -B /build -DBUILD_TESTING=OFF -DDSA_FAST_CUDA=OFF -DDSA_FAST_RUNTIME=ON -DDSA_FAST_TENSORRT=ON && \
    cmake --build /build --parallel && \
    cmake --install /build --prefix /opt/dsa_fast

FROM nvcr.io/nvidia/tensorrt:${TENSORRT}
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends libjpeg-turbo8 libpng16-16 && \
    rm -rf /var/lib/apt/lists/* && useradd --uid 10001 --create-home runtime
COPY --from=build /opt/dsa_fast /opt/dsa_fast
USER 10001
ENTRYPOINT ["/opt/dsa_fast/bin/dsa_embed"]
CMD ["--help"]
