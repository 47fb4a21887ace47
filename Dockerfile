# fieldpost in one image; the command is the role: cloud, edge, telemetry, broker init, and all others.
#   docker build -t fieldpost .
# Where no registry is reachable: make airgap-images, then --build-arg BASE_IMAGE=fieldpost-airgap/python (docs/containers.md).
# A package index of your own, and the authority of its certificate, as build secrets, which no layer keeps:
#   docker build --secret id=pip_conf,src=pip.conf --secret id=authorities,src=ca-certificates.crt -t fieldpost .
ARG BASE_IMAGE=python:3.13.9-slim-trixie

FROM ${BASE_IMAGE} AS build
ARG EXTRAS=api,broker,kubernetes,postgres
WORKDIR /src
RUN python3 -m venv --without-pip /opt/fieldpost && python3 -m venv /opt/tools
COPY pyproject.toml constraints.txt README.md fieldpost.py ./
COPY common common
COPY edge edge
COPY cloud cloud
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=secret,id=authorities,target=/run/secrets/authorities \
    if [ -s /run/secrets/authorities ]; then export PIP_CERT=/run/secrets/authorities; fi \
    && /opt/tools/bin/pip --python /opt/fieldpost/bin/python install --quiet --no-cache-dir \
        --disable-pip-version-check -c constraints.txt ".[${EXTRAS}]" \
    && /opt/fieldpost/bin/python -m compileall -q /opt/fieldpost/lib

FROM ${BASE_IMAGE}
RUN groupadd --system --gid 10001 fieldpost \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/fieldpost fieldpost \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/fieldpost
COPY --from=build /opt/fieldpost /opt/fieldpost
ENV PATH=/opt/fieldpost/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    FIELDPOST__DATA_DIR=/var/lib/fieldpost
USER 10001:10001
WORKDIR /var/lib/fieldpost
VOLUME /var/lib/fieldpost
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["python", "-m", "common.health"]
ENTRYPOINT ["fieldpost"]
CMD ["--help"]
