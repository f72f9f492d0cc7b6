"""Runs inside the emulated ARM system: one network of one peer, on given images. Needs only numpy and the peer there.

    guest.py SETTINGS.json       {"peer": "onnxruntime" | "ncnn", "model": [FILES], "images": NPY, "outputs": NPY,
                                  "options": {...}, "mark": true | false}

Images are float32 [N, C, H, W]. With ``mark`` the first image is run twice, the second time between two announcements (a
system call that does nothing, see ``deploy_arm/plugin/counter.c``): what is counted is one inference with everything loaded.
"""

import ctypes
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

MARK = 1_000_000
Run = Callable[[Any], Any]


def onnxruntime_network(files: list[str], options: dict[str, str]) -> Run:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    for name, value in options.items():
        settings.add_session_config_entry(name, value)
    session = onnxruntime.InferenceSession(files[0], settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image[None]})[0].reshape(-1)


def ncnn_network(files: list[str], options: dict[str, bool]) -> Run:
    import ncnn

    network = ncnn.Net()
    network.opt.num_threads = 1
    for name, value in options.items():
        if not hasattr(network.opt, name):
            sys.exit(f"ncnn has no option {name}")
        setattr(network.opt, name, value)
    if network.load_param(files[0]) != 0 or network.load_model(files[1]) != 0:
        sys.exit(f"ncnn cannot load {files}")

    def run(image: Any) -> Any:
        extractor = network.create_extractor()
        extractor.input("input", ncnn.Mat(image))
        status, output = extractor.extract("output")
        if status != 0:
            sys.exit(f"ncnn stopped with status {status}")
        return np.array(output).reshape(-1)

    return run


def main() -> None:
    with open(sys.argv[1]) as file:
        settings = json.load(file)
    makers: dict[str, Callable[..., Run]] = {"onnxruntime": onnxruntime_network, "ncnn": ncnn_network}
    make = makers[settings["peer"]]
    run = make(settings["model"], settings["options"])
    images = np.load(settings["images"])
    if settings["mark"]:
        getsid = ctypes.CDLL(None).getsid
        run(images[0])
        getsid(-MARK)
        outputs = [run(images[0])]
        getsid(-(MARK + 1))
    else:
        outputs = [run(image) for image in images]
    np.save(settings["outputs"], np.stack(outputs).astype(np.float32))


main()
