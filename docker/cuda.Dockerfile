# docker build -f docker/cuda.Dockerfile -t amt-cuda .
# docker run --rm --gpus all -v "$PWD:/data" amt-cuda -m amt.train data=dexycb data.root=/data/dexycb data.mano=/data/mano
#
# nvcc builds csrc's CUDA; no card is needed for that.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04
RUN apt-get update && apt-get install -y --no-install-recommends g++ make python3-dev python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/amt
COPY . .
RUN AMT_CUDA=on EXTRAS=jpeg,video,hopper,dinov2 VENV=/opt/venv bash docker/steps.sh
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /data
ENTRYPOINT ["python"]
CMD ["-m", "amt.kernels"]
