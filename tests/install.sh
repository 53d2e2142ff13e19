# install UV PYTHON ARGS...: `pip install ARGS` into the environment of PYTHON. uv unpacks a package once for all environments,
# in a quarter of the time; where there is none, or it does not find what pip is set up to find, pip does it.
install() {
    local uv=$1 py=$2; shift 2
    "$uv" pip install -q --python "$py" "$@" || "$py" -m pip install -q --no-compile "$@"       # what is imported is compiled then
}
