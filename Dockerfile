# An image with CUDA for one GPU or many. No image was built where this file was written: it is linted and its versions are tested.
#
#   docker build -t jepa .
#   docker run --gpus all --shm-size=16g -v "$PWD:/work" -w /work jepa pretrain ijepa_vits16 data.train=data/photos/train
#
# torch brings its CUDA libraries; the host needs only the driver and the NVIDIA container toolkit.
FROM python:3.12-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore

# g++ for torch.compile, git for the revision in environment.json
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes g++ git \
    && rm -rf /var/lib/apt/lists/*

# first what changes rarely, so that a change of the code does not install torch again
COPY requirements/run.txt /tmp/requirements.txt
RUN pip install --require-hashes -r /tmp/requirements.txt

COPY pyproject.toml setup.py README.md LICENSE /src/
COPY jepa_pipeline /src/jepa_pipeline
COPY configs /src/configs
COPY slurm /src/slurm
RUN pip install --no-deps --no-build-isolation /src && rm -rf /src

ENTRYPOINT ["jepa"]
CMD ["--help"]
