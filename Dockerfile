# mbert on a CPU, everything installed. Written where no Docker was available: nobody has built it yet.
#
#   docker build -t mbert .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" mbert predict clip.mp4
FROM python:3.11-slim

# What the wheels of OpenCV and MediaPipe expect of the system.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgl1 libegl1 libgles2 libglib2.0-0 libxcb1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/mbert
COPY . .
RUN pip install --no-cache-dir -c constraints.txt '.[all]'

# The folder of the user's videos and results; caches of the libraries must not need a home directory.
WORKDIR /work
ENV HOME=/tmp
ENTRYPOINT ["mbert"]
CMD ["--help"]
