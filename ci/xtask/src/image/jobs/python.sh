# Processes that compute, and threads that share a table under a lock.
sum=$(python3 - "$SCALE" <<'PYTHON'
import hashlib, sys, threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pool

scale = int(sys.argv[1])

def digest(number):
    word = str(number).encode()
    for _ in range(2000):
        word = hashlib.sha256(word).digest()
    return word.hex()[:8]

def main():
    with Pool(4) as pool:
        words = pool.map(digest, range(40 * scale), chunksize=5)
    table, lock = {}, threading.Lock()
    def add(word):
        with lock:
            table[word[0]] = table.get(word[0], 0) + 1
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, words * 10))
    assert sum(table.values()) == 10 * len(words)
    print(hashlib.sha256("".join(words).encode()).hexdigest()[:16])

main()
PYTHON
) || exit 1
job python true "$sum"
