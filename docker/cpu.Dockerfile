# The runtime for ONNX files on a CPU: Python, NumPy, OpenVINO and dsa-fast-runtime, without PyTorch.
#
#   docker build -f docker/cpu.Dockerfile -t dsa-fast-runtime .
#   docker run --rm -v "$PWD:/data" dsa-fast-runtime python -c \
#     "from dsa_fast_runtime import Encoder; print(Encoder('/data/mf.onnx')('/data/a.jpg').shape)"
FROM python:3.12-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update && \
    apt-get install -y --no-install-recommends g++ nlohmann-json3-dev libssl-dev libjpeg-dev libpng-dev patchelf && \
    rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY cmake cmake
COPY csrc csrc
COPY dsa_fast/version.py dsa_fast/version.py
# auditwheel copies the image libraries into the wheel, so the second stage needs none.
RUN pip install --no-cache-dir auditwheel==6.8.2 && \
    pip wheel --no-cache-dir --no-deps -w /wheels ./csrc/runtime && \
    auditwheel repair --exclude 'libopenvino.so.*' -w /repaired /wheels/*.whl

FROM python:3.12-slim-bookworm
COPY --from=build /repaired /wheels
RUN pip install --no-cache-dir "$(echo /wheels/*.whl)[openvino]" && rm -r /wheels && useradd --uid 10001 --create-home runtime
USER 10001
WORKDIR /home/runtime
CMD ["python", "-c", "import dsa_fast_runtime as r; print('dsa-fast-runtime', r.__version__, r.available('onnx'))"]
