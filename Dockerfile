# lora_bench in a container, which runs the quickstart:
#
#   docker build -t lora_bench .
#   mkdir -p runs && docker run --rm --user "$(id -u)" -v "$PWD/runs:/home/bench/runs" lora_bench
#
# On a GPU, with NVIDIA's container toolkit:
#
#   docker build -t lora_bench:cuda --build-arg BASE=nvidia/cuda:12.8.1-base-ubuntu24.04 \
#     --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 --build-arg EXTRAS=[gpu] .
#   mkdir -p runs && docker run --rm --gpus all --user "$(id -u)" -v "$PWD/runs:/home/bench/runs" lora_bench:cuda
ARG BASE=python:3.12-slim
FROM ${BASE}

# CUDA's images have no Python.
RUN if ! python3 -c "import ensurepip, venv"; then \
        apt-get update && apt-get install --yes --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*; \
    fi

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python3 -m venv /opt/lora_bench && /opt/lora_bench/bin/pip install --no-cache-dir torch --index-url "${TORCH_INDEX}"

ARG EXTRAS=
COPY . /tmp/lora_bench
RUN /opt/lora_bench/bin/pip install --no-cache-dir "/tmp/lora_bench${EXTRAS}" && rm -rf /tmp/lora_bench

# Any user may write the cache and the runs, so that `--user` works.
RUN useradd --uid 10001 --create-home bench && install --directory --owner=bench --mode=777 /home/bench /home/bench/cache /home/bench/runs
USER bench
WORKDIR /home/bench
ENV HOME=/home/bench USER=bench LORA_BENCH_CACHE=/home/bench/cache PATH=/opt/lora_bench/bin:$PATH
ENTRYPOINT ["lora-bench"]
CMD ["run", "quickstart"]
