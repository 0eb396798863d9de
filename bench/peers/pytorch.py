"""PyTorch, on the GPU where it has one: the same tasks by the same protocol as the other peers (protocol.ts)."""

import json
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

settings = json.loads(sys.argv[1])
mode = sys.argv[2] if len(sys.argv) > 2 else "f32"
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.backends.cudnn.allow_tf32 = mode == "tf32"
torch.backends.cuda.matmul.allow_tf32 = mode == "tf32"


class Block(nn.Module):
    def __init__(self, cin, mid, cout, stride, groups):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(cin, mid, 1), nn.BatchNorm2d(mid)
        self.conv2, self.bn2 = nn.Conv2d(mid, mid, 3, stride, 1, groups=groups), nn.BatchNorm2d(mid)
        self.conv3, self.bn3 = nn.Conv2d(mid, cout, 1), nn.BatchNorm2d(cout)
        same = stride == 1 and cin == cout
        self.shortcut = nn.Identity() if same else nn.Sequential(nn.Conv2d(cin, cout, 1, stride), nn.BatchNorm2d(cout))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


def network():
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    width = 64
    for stage, depth in enumerate(settings["layers"]):
        for i in range(depth):
            out = settings["channels"][stage]
            layers.append(Block(width, out // 4, out, 2 if stage and i == 0 else 1, settings["cardinality"]))
            width = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, settings["classes"])).to(device)


def batch():
    n, size = settings["batchSize"], settings["imageSize"]
    return torch.randn(n, 3, size, size, device=device), torch.arange(n, device=device) % settings["classes"]


def train():
    model, (x, y) = network().train(), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)

    def step():
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def without_gradient(function):
    def step():
        with torch.no_grad():
            function()

    return step


def infer():
    model, (x, _) = network().eval(), batch()
    return without_gradient(lambda: model(x))


def conv1x1():
    x, weight = torch.randn(16, 64, 56, 56, device=device), torch.randn(256, 64, 1, 1, device=device)
    return without_gradient(lambda: F.conv2d(x, weight))


def grouped3x3():
    x, weight = torch.randn(16, 128, 28, 28, device=device), torch.randn(128, 4, 3, 3, device=device)
    return without_gradient(lambda: F.conv2d(x, weight, padding=1, groups=32))


tasks = {"train": train, "infer": infer, "conv1x1": conv1x1, "grouped3x3": grouped3x3}
ready, others, peaks = {}, {}, {}
for line in sys.stdin:
    request = json.loads(line)
    name = request["task"]
    try:
        if name not in ready:
            if device == "cuda":
                others[name] = torch.cuda.memory_allocated()
                torch.cuda.reset_peak_memory_stats()
            ready[name] = tasks[name]()
        started = time.perf_counter()
        for _ in range(request["times"]):
            ready[name]()
        if device == "cuda":
            torch.cuda.synchronize()
        answer = {"ms": (time.perf_counter() - started) * 1000}
        if device == "cuda":
            # The task's own: by the next request, others have run.
            if name not in peaks:
                peaks[name] = torch.cuda.max_memory_allocated() - others[name]
            answer["peakBytes"] = peaks[name]
    except RuntimeError as error:
        answer = {"error": str(error).splitlines()[0]}
    print(json.dumps(answer), flush=True)
