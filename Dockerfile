# One image for every part: `serve xds`, `serve extproc`, `fake-vllm`, and the rest of the command
# line. Envoy is not in it; it runs from its own image.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
# What is shipped, and beside it what builds it, so that nothing has to be taken out again.
RUN python -m venv --without-pip /opt/poolpilot && python -m venv /opt/build
# Optional dependencies to install (see pyproject.toml). The Kubernetes client, half of what is
# installed, is there because both servers need it in a cluster; docker-compose.yaml leaves it out.
ARG EXTRAS="fast,kubernetes"
# 1: the path of a request becomes C (docs/compiled.md), which takes a minute. 0: it stays Python.
ARG COMPILED=1
# An image of a distribution has Python's headers in a package of their own.
RUN if [ "$COMPILED" = 1 ]; then \
      headers=$(python -c "import sysconfig; print(sysconfig.get_path('include'))"); \
      export DEBIAN_FRONTEND=noninteractive DEBCONF_NOWARNINGS=yes; \
      apt-get update -qq \
      && apt-get install -y -qq --no-install-recommends gcc libc6-dev \
         $(test -f "$headers/Python.h" || echo python3-dev) >/dev/null \
      && rm -rf /var/lib/apt/lists/*; \
    fi
# The dependencies are a layer of their own, which an edit of the code leaves alone.
COPY pyproject.toml constraints.txt ./
RUN python -c "import os, tomllib; p = tomllib.load(open('pyproject.toml', 'rb')); \
of = p['project']['optional-dependencies']; \
shipped = [d for e in os.environ['EXTRAS'].split(',') if e for d in of[e]]; \
print(*p['project']['dependencies'], *shipped, sep='\n', file=open('requirements.txt', 'w')); \
builds = of['compile'] if os.environ['COMPILED'] == '1' else p['build-system']['requires']; \
print(*builds, sep='\n', file=open('builds.txt', 'w'))" \
 && pip="/opt/build/bin/pip --disable-pip-version-check" \
 # The compiler reads the types of what is imported.
 && $pip install -c constraints.txt -r builds.txt -r requirements.txt \
 && $pip --python /opt/poolpilot/bin/python install -c constraints.txt -r requirements.txt
COPY . .
RUN pip="/opt/build/bin/pip --disable-pip-version-check" \
 && HATCH_BUILD_HOOK_ENABLE_MYPYC=$(test "$COMPILED" = 1 && echo true || echo false) \
    $pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && $pip --python /opt/poolpilot/bin/python install --no-deps dist/*.whl \
 # Nobody runs the tests of libraries there.
 && find /opt/poolpilot -depth -type d \( -name tests -o -name test \) -exec rm -rf {} +

FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="PoolPilot" \
      org.opencontainers.image.description="xDS server and endpoint picker for LLM pools behind Envoy"
# A fresh volume at /state takes its owner from here.
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin poolpilot \
 && install --directory --owner=10001 --group=10001 --mode=0700 /state
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
