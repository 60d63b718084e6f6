# syntax=docker/dockerfile:1
# Two images from one file:   docker build --target api .      no torch, 0.4 GB
#                             docker build --target worker .   with torch, 1.3 GB, and 0.3 GB of packages for ONNX Runtime and OpenVINO
#
# Versions are those of constraints.txt. On x86-64 the default wheel of torch brings CUDA, which Octavo does not use:
# pass --build-arg PIP_EXTRA_INDEX_URL=<PyTorch's index of CPU wheels> and the worker's image is some gigabytes smaller.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 \
    PATH=/opt/octavo/bin:$PATH \
    OCTAVO_DATA_DIR=/data \
    OCTAVO_LOG__FORMAT=json
# A volume mounted at /data takes over this owner, so that the process need not be root.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin octavo \
    && install --directory --owner=octavo --group=octavo --mode=0700 /data /data/node
WORKDIR /data

FROM ${PYTHON_IMAGE} AS build
ARG PIP_EXTRA_INDEX_URL=
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/octavo
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY api api
COPY server server
COPY shared shared
COPY worker worker

FROM build AS build-api
RUN /opt/octavo/bin/pip install --constraint constraints.txt '.[api]'

FROM build AS build-worker
RUN /opt/octavo/bin/pip install --constraint constraints.txt '.[worker,onnxruntime,openvino]'

FROM base AS worker
COPY --from=build-worker /opt/octavo /opt/octavo
COPY deploy/worker_alive.py /opt/octavo/worker_alive.py
USER 10001
# Whether this container's worker was heard of in the last seconds, by the database that the others look at too.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python", "/opt/octavo/worker_alive.py"]
CMD ["octavo-server", "worker"]

# The last target is what `docker build .` makes.
FROM base AS api
COPY --from=build-api /opt/octavo /opt/octavo
ENV OCTAVO_API__HOST=0.0.0.0
EXPOSE 8080
USER 10001
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=3)"]
CMD ["octavo-server", "api"]
