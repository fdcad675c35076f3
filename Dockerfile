# One image for every part: `serve xds`, `serve extproc`, `fake-vllm`, and the rest of the command
# line. Envoy is not in it; it runs from its own image.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/poolpilot
# Optional dependencies to install (see pyproject.toml).
ARG EXTRAS="fast,kubernetes"
# The dependencies are a layer of their own, which an edit of the code leaves alone.
COPY pyproject.toml constraints.txt ./
RUN python -c "import os, tomllib; p = tomllib.load(open('pyproject.toml', 'rb')); \
extras = os.environ['EXTRAS'].split(','); \
print(*p['project']['dependencies'], *p['build-system']['requires'], \
*(d for e in extras if e for d in p['project']['optional-dependencies'][e]), sep='\n')" \
    > requirements.txt \
 && /opt/poolpilot/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt \
    -r requirements.txt
COPY . .
RUN /opt/poolpilot/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps \
    --no-build-isolation . \
 # Nothing is installed at run time, and tests of libraries are not run there.
 && /opt/poolpilot/bin/pip uninstall --yes --quiet hatchling pip setuptools \
 && find /opt/poolpilot -depth -type d \( -name tests -o -name test \) -exec rm -rf {} +

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="PoolPilot" \
      org.opencontainers.image.description="xDS server and endpoint picker for LLM pools behind Envoy"
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin poolpilot
COPY --from=build /opt/poolpilot /opt/poolpilot
ENV PATH=/opt/poolpilot/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /
# xDS and its HTTP; ext-proc, its health and its HTTP; the simulated vLLM server.
EXPOSE 18000 18001 9002 9003 9090 8000
ENTRYPOINT ["poolpilot"]
CMD ["--help"]
