# A server that computes on the processor. From the repository's root:
#   docker build --file docs/operations/containers/cpu.Dockerfile --tag clip-search:cpu .
FROM python:3.12-slim AS wheels
# hnswlib is built from source. Debian keeps no old versions of a compiler that could be named here.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
# Without this hnswlib would use what the building processor can, and other processors would stop at it.
ENV HNSWLIB_NO_NATIVE=1
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY requirements requirements
COPY client client
COPY server server
COPY export export
COPY gallery gallery
COPY photos photos
COPY evaluation evaluation
ENV PIP_CONSTRAINT=/source/requirements/constraints.txt
ARG EXTRAS=server,hnswlib
RUN python3 -m pip wheel --no-cache-dir --wheel-dir /wheels ".[${EXTRAS}]"

FROM python:3.12-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
RUN groupadd --gid 10001 clip-search \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin clip-search \
    && install --directory --owner clip-search --group clip-search --mode 0700 /data /cache \
    && install --directory --mode 0755 /models
ARG EXTRAS=server,hnswlib
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    python3 -m venv /opt/clip-search \
    && /opt/clip-search/bin/python -m pip install --no-cache-dir --no-index --find-links /wheels "clip-search[${EXTRAS}]"
ENV PATH=/opt/clip-search/bin:$PATH \
    XDG_CACHE_HOME=/cache \
    CLIP_SEARCH_SERVE_BUNDLE=/models/default \
    CLIP_SEARCH_SERVE_DATA=/data \
    CLIP_SEARCH_SERVE_LISTEN=0.0.0.0:50051
USER 10001:10001
VOLUME ["/data", "/cache"]
EXPOSE 50051
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 CMD ["search_client", "health"]
ENTRYPOINT ["clip-search"]
CMD ["serve"]
