import os
os.environ.setdefault('BOSS_DEVICE', 'cpu')
