# One image for every part: `serve xds`, `serve extproc`, `fake-vllm`, and the rest of the command
# line. Envoy is not in it; it runs from its own image.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/poolpilot
# Optional dependencies to install (see pyproject.toml).
ARG EXTRAS="fast,kubernetes"
# 1: the path of a request becomes C (docs/compiled.md), which takes a minute. 0: it stays Python.
ARG COMPILED=1
# An image of a distribution has Python's headers in a package of their own.
RUN if [ "$COMPILED" = 1 ]; then \
      headers=$(python -c "import sysconfig; print(sysconfig.get_path('include'))"); \
      apt-get update -qq \
      && apt-get install -y -qq --no-install-recommends gcc libc6-dev \
         $(test -f "$headers/Python.h" || echo python3-dev) >/dev/null \
      && rm -rf /var/lib/apt/lists/*; \
    fi
# The dependencies are a layer of their own, which an edit of the code leaves alone.
COPY pyproject.toml constraints.txt ./
RUN python -c "import os, tomllib; p = tomllib.load(open('pyproject.toml', 'rb')); \
extras = os.environ['EXTRAS'].split(',') + ['compile'] * int(os.environ['COMPILED']); \
print(*p['project']['dependencies'], *p['build-system']['requires'], \
*(d for e in extras if e for d in p['project']['optional-dependencies'][e]), sep='\n')" \
    > requirements.txt \
 && /opt/poolpilot/bin/pip install --no-cache-dir --disable-pip-version-check -c constraints.txt \
    -r requirements.txt
COPY . .
RUN HATCH_BUILD_HOOK_ENABLE_MYPYC=$(test "$COMPILED" = 1 && echo true || echo false) \
    /opt/poolpilot/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps \
    --no-build-isolation . \
 # Nothing is installed at run time, and tests of libraries are not run there.
 && /opt/poolpilot/bin/pip uninstall --yes --quiet \
    hatchling pathspec pluggy trove-classifiers \
    hatch-mypyc mypy mypy_extensions ast_serialize librt types-protobuf setuptools pip \
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
