# One image for every role: API, campaign worker, Ray node.
FROM python:3.11-slim

# Index that offers the wanted torch build, such as PyTorch's own for one CPU or CUDA version. Empty: the default index,
# whose build runs on the CPU everywhere and on a GPU where the platform's wheel has CUDA.
ARG TORCH_INDEX_URL=""

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 RAY_USAGE_STATS_ENABLED=0

WORKDIR /app
COPY constraints.txt ./
# torch alone first: it is the largest layer and changes least.
RUN pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "$(grep '^torch==' constraints.txt)"

COPY pyproject.toml README.md ./
COPY campaigns ./campaigns
COPY search_spaces ./search_spaces
COPY merging ./merging
COPY evaluators ./evaluators
COPY optimizer ./optimizer
COPY storage ./storage
COPY api ./api
COPY dashboard ./dashboard
COPY fronts ./fronts
COPY mergefront ./mergefront
RUN pip install --constraint constraints.txt .

# The volume mounted on /home/mergefront/data takes its owner from here.
RUN useradd --create-home --uid 10001 mergefront && install --directory --owner=mergefront /home/mergefront/data
USER mergefront
WORKDIR /home/mergefront

EXPOSE 8400
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8400/healthz', timeout=2)"]
ENTRYPOINT ["mergefront"]
CMD ["serve", "--help"]
