"""Writes tensorflow/: what XLA dumps of a small TensorFlow training step, before and after it optimizes the module.

Made with tensorflow-cpu 2.21.0, from a folder of packages whose path names no machine:
    pip install --target /tmp/packages tensorflow-cpu && PYTHONPATH=/tmp/packages python tensorflow_train.py
"""

import gzip
import os
import tempfile
from pathlib import Path

FOLDER = Path(__file__).with_name("tensorflow")

with tempfile.TemporaryDirectory() as dumped:
    os.environ["XLA_FLAGS"] = f"--xla_dump_to={dumped} --xla_dump_hlo_as_proto"
    import tensorflow as tf  # reads XLA_FLAGS

    kernel = tf.Variable(tf.random.normal((3, 3, 1, 4), seed=0), name="conv/kernel")
    weights = tf.Variable(tf.random.normal((64, 10), seed=0), name="dense/kernel")

    @tf.function(jit_compile=True)
    def train_step(images, labels):
        with tf.GradientTape() as tape:
            with tf.name_scope("conv"):
                maps = tf.nn.relu(tf.nn.conv2d(images, kernel, strides=2, padding="SAME"))
            with tf.name_scope("dense"):
                logits = tf.reshape(maps, (-1, 64)) @ weights
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
        for variable, gradient in zip((kernel, weights), tape.gradient(loss, (kernel, weights)), strict=True):
            variable.assign_sub(0.1 * gradient)
        return loss

    train_step(tf.zeros((16, 8, 8, 1)), tf.zeros((16,), tf.int32))
    FOLDER.mkdir(exist_ok=True)
    for file in Path(dumped).glob("*_optimizations.hlo.pb"):
        if "train_step" in file.name:
            # The name of the module has the whole configuration of its call in it.
            number, _, rest = file.name.partition(".a_inference_")
            name = f"{number}.{rest.partition('__')[0]}.{'.'.join(rest.split('.')[-3:])}.gz"
            (FOLDER / name).write_bytes(gzip.compress(file.read_bytes(), 9, mtime=0))
