# One image for dispatchers, workers and the command line; docker-compose.yml says how it is run.
# Nothing in it needs BuildKit. Without a package index: put wheels into wheels/ and build with
#   --build-arg PIP_OPTIONS="--no-index --find-links wheels"
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
ARG PIP_OPTIONS=
WORKDIR /src
RUN python3 -m venv /opt/dispatcher
COPY . .
RUN /opt/dispatcher/bin/pip install --no-cache-dir --disable-pip-version-check ${PIP_OPTIONS} '.'

FROM ${PYTHON_IMAGE}
# By number: Kubernetes takes it as proof that this is not root. A home that can be written to.
RUN groupadd --gid 10001 dispatcher \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp dispatcher
COPY --from=build /opt/dispatcher /opt/dispatcher
ENV PATH=/opt/dispatcher/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /tmp
CMD ["dispatcher", "--help"]
