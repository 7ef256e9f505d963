#!/bin/sh
# Pictures of a scene are drawn without a screen by Mesa's EGL. Say so where it is missing; as root, install it.
python3 -c 'import ctypes.util, sys; sys.exit(ctypes.util.find_library("EGL") is None)' && exit 0
packages="libegl1 libgl1-mesa-dri libegl-mesa0"
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages >/dev/null && exit 0
fi
echo "Note: pictures of scenes need Mesa's EGL library. On Debian and Ubuntu: sudo apt-get install $packages"
