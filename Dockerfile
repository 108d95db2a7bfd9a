# Two stages: the first has pip and its caches, the second what runs.
FROM python:3.13-slim AS build
WORKDIR /app
RUN python -m venv /venv
COPY locks/requirements.lock locks/
RUN /venv/bin/pip install --no-cache-dir --require-hashes --no-deps --only-binary :all: \
    -r locks/requirements.lock
COPY pyproject.toml README.md ./
COPY server server
# In place, so that `bobbin` is there and db/ stays beside server/, where it is looked for.
RUN /venv/bin/pip install --no-cache-dir --no-deps --no-index --no-build-isolation --editable .

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /data --create-home --shell /usr/sbin/nologin bobbin
COPY --from=build /venv /venv
COPY --from=build /app /app
COPY db/migrations /app/db/migrations
COPY db/queries /app/db/queries
WORKDIR /app
# Without DATABASE_URL and REDIS_URL the private servers keep their data in /data: mount a volume there.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 HOST=0.0.0.0 PORT=8000 BOBBIN_DATA_DIR=/data
USER bobbin
VOLUME /data
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["python", "-c", \
    "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/livez', timeout=2)"]
CMD ["bobbin", "serve"]
