# The kernels and the command line on the CPU. In the root of the repository:
#   docker build -t stgt . && docker run --rm stgt info
FROM python:3.11-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/stgt
ENV PATH=/opt/stgt/bin:$PATH PIP_NO_CACHE_DIR=1
WORKDIR /source
COPY constraints.txt ./
# PyPI's torch for Linux brings several GB of CUDA. PyTorch's own index has builds for the CPU alone, which pip prefers
# because of their version (2.13.0+cpu); PyPI has the pinned versions of everything else.
RUN pip install -c constraints.txt --extra-index-url https://download.pytorch.org/whl/cpu torch torchvision
RUN pip install -c constraints.txt setuptools wheel ninja pybind11
COPY pyproject.toml setup.py README.md LICENSE ./
COPY csrc csrc
COPY stgt_kernels stgt_kernels
COPY stgt stgt
RUN pip install -c constraints.txt --no-build-isolation '.[train]'

FROM python:3.11-slim
COPY --from=build /opt/stgt /opt/stgt
ENV PATH=/opt/stgt/bin:$PATH
ENTRYPOINT ["stgt"]
CMD ["--help"]
