# Two images from one file:
#   docker build --target bridge -t REGISTRY/distributary-bridge:VERSION .
#   docker build --target edge   -t REGISTRY/distributary-edge:VERSION .
# The bridge's reads every format (the extra `formats`). The edge's has no Kafka library in it, and neither has a compiler or pip.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# A compiler for xdelta3, which is distributed as source only.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
# First what changes seldom: the compiled engine stays in the cache of layers. It is installed straight from its source, because the wheel
# that its setup makes has a tag that pip refuses to install from a directory.
RUN python -m venv --without-pip /opt/distributary \
    && pip --python /opt/distributary/bin/python install "xdelta3==0.0.5"
COPY pyproject.toml README.md LICENSE ./
COPY shared shared
COPY bridge bridge
COPY edge edge
COPY clients/python clients/python
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM build AS build-bridge
RUN pip --python /opt/distributary/bin/python install "distributary[bridge,formats,xdelta] @ file://$(ls /wheels/distributary-*.whl)" \
    && /opt/distributary/bin/python -c "import bridge, confluent_kafka.schema_registry, fastavro, google.protobuf, google.transit, grpc_tools, jsonschema, re2, _xdelta3"

FROM build AS build-edge
RUN pip --python /opt/distributary/bin/python install "distributary[edge,xdelta] @ file://$(ls /wheels/distributary-*.whl)" \
    && /opt/distributary/bin/python -c "import edge, _xdelta3; from importlib.util import find_spec; assert not any(map(find_spec, ('confluent_kafka', 'fastavro', 'grpc_tools')))"

FROM ${PYTHON_IMAGE} AS runtime
RUN groupadd --gid 10001 distributary \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin distributary
# Unbuffered, so that the last lines before a crash are in the log; no bytecode, because the file system is read-only.
ENV PATH=/opt/distributary/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
# By number, so that Kubernetes can see that it is not root.
USER 10001:10001

FROM runtime AS bridge
COPY --from=build-bridge /opt/distributary /opt/distributary
# Inside a container the pod's address is the only one that a probe can reach.
ENV BRIDGE_INTERNAL_HOST=0.0.0.0
EXPOSE 9100
ENTRYPOINT ["bridge"]
CMD ["run"]

FROM runtime AS edge
COPY --from=build-edge /opt/distributary /opt/distributary
ENV EDGE_HOST=0.0.0.0 EDGE_INTERNAL_HOST=0.0.0.0
EXPOSE 8000 9101
ENTRYPOINT ["edge"]
CMD ["run"]
