"""A load of HTTP requests against one's own service, for trying what it bears: `twinhull load`.

Open loop: each request has a time at which it is due, whatever the answers take, and its answer's time counts from there. A generator that
waits for answers sends less when the service is slow, and then measures less than people would wait (coordinated omission).
"""
