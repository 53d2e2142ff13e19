"""Separate processes that start at once: each is a fork (`multiprocessing`'s forkserver) of one that has imported everything and
done nothing else. What must begin from nothing, as with a user, goes through `subprocess`."""
import multiprocessing, os, runpy, signal, socket, subprocess, sys, tempfile, time
from pathlib import Path

server = multiprocessing.get_context('forkserver')
server.set_forkserver_preload(['boss_nb.share.cli', 'boss_nb.train.reflow', 'boss_nb.judge.measure', 'peft', 'torch._dynamo', 'torch._inductor'])

def _main(argv, env, cwd, out, err):
    for f,fd in ((out, 1), (err, 2)): os.dup2(os.open(f, os.O_WRONLY|os.O_APPEND), fd)
    os.environ.clear(); os.environ.update(env); os.chdir(cwd)
    signal.signal(signal.SIGINT, signal.default_int_handler)                # a job in the background is born deaf to Ctrl-C
    import torch; torch.set_num_threads(1)
    sys.argv[:] = argv; sys.path.insert(0, str(Path(argv[0]).parent))
    runpy.run_path(argv[0], run_name='__main__')

class Process:
    "A Python script with its arguments, begun; words by name are added to its environment"
    def __init__(self, *argv, cwd=None, **env):
        self.argv, self.folder = [*map(str, argv)], tempfile.TemporaryDirectory()
        self.out, self.err = (Path(self.folder.name)/o for o in ('out', 'err'))
        for f in (self.out, self.err): f.touch()
        self.process = server.Process(target=_main, args=(self.argv, dict(os.environ) | {k:str(o) for k,o in env.items()}, str(cwd or os.getcwd()), str(self.out), str(self.err)), daemon=True)
        self.process.start()
    @property
    def code(self): return self.process.exitcode
    def send(self, sig): os.kill(self.process.pid, sig)
    def lines(self):
        "What it prints, line by line, as it comes"
        line = ''
        with self.out.open() as f:
            while True:
                ended = self.code is not None; line += (more := f.readline())
                if line.endswith('\n'): yield line; line = ''
                elif not more:
                    if ended: return
                    time.sleep(.005)
    def wait(self, timeout=300):
        self.process.join(timeout)
        if self.code is None: self.process.kill(); raise subprocess.TimeoutExpired(self.argv, timeout)
        return subprocess.CompletedProcess(self.argv, self.code, self.out.read_text(), self.err.read_text())

def run(*argv, cwd=None, timeout=300, **env):
    "As `subprocess.run` with captured output"
    return Process(*argv, cwd=cwd, **env).wait(timeout)

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

def spread(n, *argv, timeout=300, **env):
    "As torchrun starts `n` of them: what became of the first that failed, or of process 0"
    at = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port(), WORLD_SIZE=n, **env)
    ps, end = [Process(*argv, RANK=i, LOCAL_RANK=i, **at) for i in range(n)], time.monotonic()+timeout
    while any(p.code is None for p in ps) and not any(p.code for p in ps) and time.monotonic() < end: time.sleep(.01)
    who = next((p for p in ps if p.code), ps[0])
    for p in ps:
        if p is not who and p.code is None: p.process.join(5); p.process.kill()
    return who.wait(max(0, end-time.monotonic()))
