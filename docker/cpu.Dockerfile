# docker build -f docker/cpu.Dockerfile -t amt .
# docker run --rm -v "$PWD:/data" amt -m amt.infer /data/checkpoint /data/picture.jpg --out /data/results
#
# PyPI's PyTorch brings gigabytes of CUDA. --build-arg PIP_EXTRA_INDEX_URL=… names PyTorch's index of CPU builds.
FROM python:3.12-slim-bookworm
RUN apt-get update && apt-get install -y --no-install-recommends g++ make && rm -rf /var/lib/apt/lists/*
ARG PIP_EXTRA_INDEX_URL
WORKDIR /opt/amt
COPY . .
RUN VENV=/opt/venv bash docker/steps.sh
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /data
ENTRYPOINT ["python"]
CMD ["-m", "amt.kernels"]
