"""The root file system behaves as a local one: ownership, links, locks, holes, many files, odd names."""

from __future__ import annotations

import json

import pytest
from tests.conformance.instance import PYTHON, Instance, Maker

HERE = "import os,sys,tempfile,shutil,atexit\nd=tempfile.mkdtemp(dir='/var'); os.chdir(d); atexit.register(shutil.rmtree,d)\n"


def test_ownership_and_modes(box: Instance) -> None:
    script = "for m in (0o4755,0o2711,0o1777,0o600):\n open('f','w'); os.chown('f',1234,60000); os.chmod('f',m); s=os.stat('f')"
    assert box.py(HERE + script + "; print(s.st_uid,s.st_gid,oct(s.st_mode&0o7777)); os.unlink('f')").splitlines() == [
        f"1234 60000 {oct(mode)}" for mode in (0o4755, 0o2711, 0o1777, 0o600)
    ]


@pytest.mark.except_for("sandbox", "its file server counts links late")
def test_hard_and_symbolic_links(box: Instance) -> None:
    script = (
        "open('a','w').write('1'); os.link('a','b'); os.symlink('a','c'); os.symlink('/no/where','d')\n"
        "open('b','a').write('2'); print(open('c').read(), os.stat('a').st_nlink, os.readlink('d'), os.path.exists('d'))\n"
        "os.unlink('a'); print(os.path.exists('c'), open('b').read(), os.stat('b').st_nlink)"
    )
    assert box.py(HERE + script).splitlines() == ["12 2 /no/where False", "False 12 1"]


def test_links_to_files_of_the_image_survive_copy_up(box: Instance) -> None:
    script = (
        "p='/etc/th-link'; os.link('/etc/issue',p); same=os.path.samefile('/etc/issue',p)\n"
        "open(p,'a').write('x'); print(same, open('/etc/issue').read().endswith('x'), os.stat(p).st_nlink); os.unlink(p)"
    )
    assert box.py(HERE + script) == "True True 2"


def test_rename_replaces_and_open_files_live_on(box: Instance) -> None:
    script = (
        "open('a','w').write('old'); f=open('a'); open('b','w').write('new'); os.rename('b','a'); os.unlink('a')\n"
        "os.mkdir('x'); os.mkdir('x/y'); os.rename('x','z'); print(f.read(), os.listdir('.'), os.listdir('z'))"
    )
    assert box.py(HERE + script) == "old ['z'] ['y']"


def test_folders_of_the_image_can_be_renamed_and_removed(make: Maker) -> None:
    script = "mv /var/www /var/web && cat /var/web/index.html && mkdir /var/www && ls /var/www | wc -l && rm -r /srv && ls -d /srv"
    done = make.foreground(command=["sh", "-c", script], check=False)
    assert done.lines == ["hello from busybox", "0"]
    assert done.code == 1


def test_a_hundred_thousand_files(box: Instance) -> None:
    script = (
        "for i in range(100):\n os.mkdir(str(i))\n for j in range(1000): os.close(os.open(f'{i}/{j}',os.O_CREAT|os.O_WRONLY))\n"
        "print(sum(len(f) for _,_,f in os.walk('.')), len(os.listdir('57')), os.path.exists('99/999'))"
    )
    assert box.py(HERE + script, timeout=280) == "100000 1000 True"


@pytest.mark.except_for("sandbox", "its files tell no holes")
def test_sparse_files(box: Instance) -> None:
    script = (
        "f=open('s','wb'); f.truncate(10<<30); f.seek(5<<30); f.write(b'mid'); f.flush(); os.fsync(f.fileno()); s=os.stat('s')\n"
        "r=open('s','rb'); r.seek((5<<30)-2); data=r.read(7); print(s.st_size, s.st_blocks*512<1<<20, data)"
    )
    assert box.py(HERE + script) == f"{10 << 30} True {bytes(2) + b'mid' + bytes(2)!r}"


def test_shared_mappings_are_seen_by_readers_and_other_processes(box: Instance) -> None:
    script = (
        "import mmap\nf=open('m','w+b'); f.truncate(8192); m=mmap.mmap(f.fileno(),8192)\n"
        "if os.fork()==0:\n n=mmap.mmap(f.fileno(),8192); n[4096:4101]=b'child'; os._exit(0)\n"
        "os.wait(); m[0:3]=b'own'; m.flush(); print(open('m','rb').read()[:3], m[4096:4101])"
    )
    assert box.py(HERE + script) == "b'own' b'child'"


def test_fsync_of_files_and_folders(box: Instance) -> None:
    script = (
        "f=open('f','wb'); f.write(b'x'*1000000); f.flush(); os.fsync(f.fileno()); os.fdatasync(f.fileno())\n"
        "d=os.open('.',os.O_RDONLY); os.fsync(d); os.sync(); print(os.stat('f').st_size)"
    )
    assert box.py(HERE + script) == "1000000"


@pytest.mark.parametrize("kind", ["flock", "lockf"])
def test_advisory_locks_hold_between_processes(box: Instance, kind: str) -> None:
    script = (
        "import fcntl\nlock=getattr(fcntl,sys.argv[1]); f=open('l','w'); lock(f,fcntl.LOCK_EX)\n"
        "def child():\n g=open('l','w')\n try: lock(g,fcntl.LOCK_EX|fcntl.LOCK_NB); return 1\n except BlockingIOError: return 0\n"
        "def ask():\n if (p:=os.fork())==0: os._exit(child())\n return os.waitstatus_to_exitcode(os.waitpid(p,0)[1])\n"
        "a=ask(); lock(f,fcntl.LOCK_UN); print(a, ask())"
    )
    assert box.py(HERE + script, kind) == "0 1"


@pytest.mark.except_for("sandbox", "its file server has no extended attributes")
def test_extended_attributes(box: Instance) -> None:
    script = "open('x','w'); os.setxattr('x','user.note',b'\\0\\xff'); print(os.getxattr('x','user.note'), os.listxattr('x'))"
    assert box.py(HERE + script) == "b'\\x00\\xff' ['user.note']"


def test_odd_names(box: Instance) -> None:
    script = (
        "names=[b'new\\nline',b'\\xff\\xfe',b' ',b'-rf',b'x'*255,'ü🚢'.encode(),b'a\\\\b']\n"
        "for n in names: open(n,'wb').write(n)\n"
        "print(sorted(os.listdir(b'.'))==sorted(names), all(open(n,'rb').read()==n for n in names))\n"
        "try: open(b'y'*256,'w')\nexcept OSError as e: print(e.errno)"
    )
    assert box.py(HERE + script).splitlines() == ["True True", "36"]


def test_times_keep_nanoseconds(box: Instance) -> None:
    script = "open('t','w'); os.utime('t',ns=(1,1234567890123456789)); s=os.stat('t'); print(s.st_atime_ns, s.st_mtime_ns)"
    assert box.py(HERE + script) == "1 1234567890123456789"


def test_fifos_and_sockets(box: Instance) -> None:
    script = (
        "import socket\nos.mkfifo('p')\nif os.fork()==0:\n open('p','w').write('through'); os._exit(0)\n"
        "print(open('p').read()); os.wait()\ns=socket.socket(socket.AF_UNIX); s.bind('s'); s.listen()\n"
        "c=socket.socket(socket.AF_UNIX); c.connect('s'); c.send(b'hi'); print(s.accept()[0].recv(9))"
    )
    assert box.py(HERE + script).splitlines() == ["through", "b'hi'"]


def test_file_changes_are_announced(box: Instance) -> None:
    script = (
        "import ctypes,select\nl=ctypes.CDLL(None); i=l.inotify_init1(0); l.inotify_add_watch(i,b'.',0x100)\n"
        "open('new','w'); r=select.select([i],[],[],10)[0]; print(b'new' in os.read(i,4096) if r else 'nothing')"
    )
    assert box.py(HERE + script) == "True"


def test_large_file_reads_back_as_written(box: Instance) -> None:
    script = (
        "b=os.urandom(1<<20)\nwith open('big','wb') as f:\n for i in range(64): f.write(i.to_bytes(4,'big')+b[4:])\n"
        "with open('big','rb') as f: print(all(f.read(1<<20)==i.to_bytes(4,'big')+b[4:] for i in range(64)), f.read())"
    )
    assert box.py(HERE + script) == "True b''"


def test_temporary_folders_are_open_to_all(small: Instance) -> None:
    assert small.sh("stat -c %a /tmp /var/tmp /dev/shm").split() == ["1777"] * 3
    assert small.exec("sh", "-c", "echo x >/tmp/of-app && stat -c %u /tmp/of-app && rm /tmp/of-app", flags=["-u", "app"]).text == "1000"


def test_shared_memory(box: Instance) -> None:
    script = (
        "from multiprocessing import shared_memory as m\na=m.SharedMemory(create=True,size=1<<20); a.buf[9]=7\n"
        "b=m.SharedMemory(a.name); print(b.buf[9]); b.close(); a.close(); a.unlink()"
    )
    assert box.py(HERE + script) == "7"


def test_size_of_shared_memory_can_be_chosen(make: Maker) -> None:
    made = make.foreground(
        "--shm-size", "1m", command=["sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1k count=2000; stat -c %s /dev/shm/x"], check=False
    )
    assert made.lines[-1] == str(1 << 20)
    assert b"No space left" in made.err


def test_devices_that_programs_expect(box: Instance) -> None:
    script = (
        "open('/dev/null','w').write('x'); print(open('/dev/zero','rb').read(3), len(open('/dev/urandom','rb').read(16)))\n"
        "try: os.write(os.open('/dev/full',os.O_WRONLY),b'x')\nexcept OSError as e: print(e.errno)\n"
        "print(os.path.exists('/dev/pts/ptmx'), os.readlink('/dev/fd'), os.readlink('/dev/stdin'), os.path.exists('/dev/mem'))\n"
        "a,b=os.openpty(); os.write(a,b'x\\n'); print(os.read(b,9))"
    )
    assert box.py(HERE + script).splitlines() == [
        "b'\\x00\\x00\\x00' 16",
        "28",
        "True /proc/self/fd /proc/self/fd/0 False",
        "b'x\\n'",
    ]


def test_read_only_root_with_writable_tmpfs(make: Maker) -> None:
    script = "touch /x; mkdir /etc/y; echo fine >/run/z && cat /run/z; touch /root/x"
    done = make.foreground("--read-only", "--tmpfs", "/run", command=["sh", "-c", script], check=False)
    assert done.text == "fine"
    assert done.err.count(b"Read-only file system") == 3


def test_tmpfs_has_its_size_and_mode(make: Maker) -> None:
    script = "stat -c %a /t; dd if=/dev/zero of=/t/x bs=1k count=3000; stat -c %s /t/x; grep -c ' /t tmpfs ' /proc/mounts"
    done = make.foreground("--tmpfs", "/t:size=2m,mode=0750", command=["sh", "-c", script])
    assert done.lines == ["750", str(2 << 20), "1"]
    assert b"No space left" in done.err


def test_two_instances_of_an_image_do_not_see_each_others_files(make: Maker) -> None:
    first, second = make(), make()
    first.sh("echo first >/etc/hostname2; rm /var/www/index.html")
    assert second.sh("ls /etc/hostname2 /var/www/index.html 2>/dev/null || true") == "/var/www/index.html"


def test_diff_names_added_changed_and_deleted(make: Maker) -> None:
    made = make()
    made.sh("mkdir /new; echo x >/new/file; echo x >>/etc/passwd; rm /var/www/index.html; ln -s x /new/link")
    seen = {(line.split()[0], line.split(maxsplit=1)[1]) for line in made.act("diff").lines}
    wanted = {("A", "/new"), ("A", "/new/file"), ("A", "/new/link"), ("C", "/etc/passwd"), ("D", "/var/www/index.html")}
    assert wanted <= seen
    assert not {path for _, path in seen} & {"/etc/hosts", "/etc/resolv.conf", "/etc/group"}


def test_commit_makes_an_image_of_the_changes(make: Maker) -> None:
    made = make()
    made.sh("echo committed >/var/www/page; rm /var/www/index.html; chown 33:33 /var/www/page; chmod 640 /var/www/page")
    tag = f"localhost/committed-{made.runtime}:1"
    made.daemon.cli("commit", made.name, tag)
    try:
        script = "cat /var/www/page; stat -c '%a %u:%g' /var/www/page; test -e /var/www/index.html; echo $?"
        assert make.foreground(image=tag, command=["sh", "-c", script]).lines == ["committed", "640 33:33", "1"]
    finally:
        made.daemon.cli("image", "rm", "-f", tag)


def test_export_is_the_whole_root(make: Maker) -> None:
    import io
    import tarfile

    made = make()
    made.sh("echo exported >/root/mine; rm /etc/shells")
    made.act("stop", "-t", "0")
    with tarfile.open(fileobj=io.BytesIO(made.act("export").out)) as tar:
        names = {name.removeprefix("./").rstrip("/") for name in tar.getnames()}
        mine = tar.extractfile(next(name for name in tar.getnames() if name.removeprefix("./") == "root/mine"))
        assert mine is not None
        assert mine.read() == b"exported\n"
    assert {"bin/busybox", "etc/passwd", "var/www/index.html"} <= names
    assert "etc/shells" not in names


def test_image_configuration_is_kept_in_inspect(make: Maker) -> None:
    made = make(image=PYTHON)
    view = made.view()
    assert view["argv"] == ["sleep", "1000000"]
    image = json.loads(made.daemon.cli("image", "inspect", PYTHON).out)
    assert view["image_id"] == (image[0] if isinstance(image, list) else image)["id"]
