"Packaging: everything is read from `settings.ini`, which nbdev reads too."
import shlex
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(here/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']

names = {'1': 'Planning', '2': 'Pre-Alpha', '3': 'Alpha', '4': 'Beta', '5': 'Production/Stable'}
minor = int(cfg['min_python'].split('.')[1])

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8') if (here/'README.md').exists() else '',
    long_description_content_type='text/markdown',
    author=cfg['author'], author_email=cfg['author_email'], url=cfg['git_url'], keywords=cfg['keywords'],
    license='Apache-2.0', license_files=['LICENSE'],
    classifiers=[f"Development Status :: {cfg['status']} - {names[cfg['status']]}",
                 f"Intended Audience :: {cfg['audience']}", 'Natural Language :: ' + cfg['language']]
                + [f'Programming Language :: Python :: 3.{o}' for o in range(minor, 15)],
    packages=find_packages(include=['boss_nb', 'boss_nb.*']), include_package_data=True,
    package_data={'boss_nb': ['weights/*.safetensors', 'weights/*.json', 'weights/*.npz', 'py.typed']},
    install_requires=shlex.split(cfg['requirements']),
    extras_require={o: shlex.split(cfg[f'{o}_requirements']) for o in ('diffusers', 'fid', 'dev')},
    python_requires='>=' + cfg['min_python'],
    entry_points={'console_scripts': [o.strip() for o in cfg['console_scripts'].split('\n') if o.strip()],
                  'nbdev': [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
    zip_safe=False)
