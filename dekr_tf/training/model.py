"""What one training step does: losses, gradients and the update, on one device or many."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf
from keras import ops

from dekr_tf.models.supervised_offsets import SupervisedOffsets
from dekr_tf.training.losses import heatmap_loss, offset_loss
from dekr_tf.training.recompute import recomputed_gradients

#: The moving average follows the weights closely at first: its momentum is at most (1 + t) / (10 + t) at step t.
EMA_START = 10.0


class DekrTraining(keras.Model):
    """A DEKR with its losses; `fit` it on (image, labels) of `data.pipeline.train_dataset`.

    A step gives the same update on one device as on several that share its batch, but for batch statistics, which are
    those of a device unless they are synchronised.

    Args:
        network: of `build_dekr`, made within the scope of the strategy.
        heatmap_weight: factor of the heatmap loss in the total.
        offset_weight: factor of the offset loss.
        prepare: makes network inputs and target maps of images and labels, on the device. Default: they are that.
        accumulation: parts of a batch that pass through the network one after another.
        ema_momentum: of the moving average of the weights. Default: none is kept.
        parts: of `recompute.segments`, to compute again what is inside them. Default: everything is kept.
        offsets: evaluates the offset head at the supervised cells only. Default: the network does, on whole maps.
    """

    def __init__(
        self,
        network: keras.Model,
        heatmap_weight: float,
        offset_weight: float,
        *,
        prepare: Callable | None = None,
        accumulation: int = 1,
        ema_momentum: float | None = None,
        parts: Sequence[keras.Model] = (),
        offsets: SupervisedOffsets | None = None,
        **kwargs,
    ):
        # Its own policy is float32, so that Keras casts neither inputs nor losses.
        super().__init__(dtype="float32", **kwargs)
        self.network = network
        self.heatmap_weight = heatmap_weight
        self.offset_weight = offset_weight
        self.prepare = prepare
        self.accumulation = accumulation
        self.ema_momentum = ema_momentum
        self.strategy = tf.distribute.get_strategy()
        self.total_mean = keras.metrics.Mean(name="loss")
        self.heatmap_mean = keras.metrics.Mean(name="heatmap_loss")
        self.offset_mean = keras.metrics.Mean(name="offset_loss")
        self._parts = tuple(parts)
        self._offsets = offsets
        self._sums = ()
        self.averages = ()
        if ema_momentum is not None:
            self.averages = tuple(map(_copy, network.trainable_variables))
        self.built = True

    @property
    def metrics(self):
        """Means over the epoch so far, which `fit` logs."""
        return [self.total_mean, self.heatmap_mean, self.offset_mean]

    def call(self, inputs, training=None):
        return self.network(inputs, training=training)

    def compile(self, optimizer, **kwargs):
        """As in Keras; the optimizer's variables are made at once."""
        super().compile(optimizer=optimizer, **kwargs)
        optimizer.build(self.network.trainable_variables)

    def make_train_function(self, force=False):
        """Makes the function that `fit` calls with an iterator of batches; it returns the means of the epoch so far.

        Keras' own reduces the results of several machines along an axis that they do not have.
        """
        if self.train_function is not None and not force:
            return
        run = self.strategy.run

        @self._graph
        def whole_step(data):
            run(self.train_step, (data,))
            return self._finish()

        @self._graph
        def prepare(data):
            return run(self._prepare, (data,))

        @self._graph
        def add_part(batch, part):
            run(self._add_part, (batch, part))

        @self._graph
        def apply_sums():
            run(self._apply_sums)
            return self._finish()

        def step_in_parts(data):
            batch = prepare(data)
            # Calls from here, and not a loop in the graph: the memory of one part is free before the next.
            for part in range(self.accumulation):
                add_part(batch, tf.constant(part))
            return apply_sums()

        step = whole_step
        if self.accumulation > 1:
            step = step_in_parts
            self._sums = self._sums or tuple(map(_local_sum, self.network.trainable_variables))

        def train_function(iterator):
            return step(next(iterator))

        self.train_function = train_function

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing is left to build; Keras would feed it a batch in pieces that only a strategy's `run` can take."""

    def _graph(self, function):
        return function if self.run_eagerly else tf.function(function, jit_compile=self.jit_compile, autograph=False)

    # What follows runs on every device, with its share of the batch.

    def train_step(self, data):
        """The step of one device, when the batch is not taken in parts; returns its means of the epoch so far."""
        self._apply(self._gradients(*self._prepare(data)))
        return self.get_metrics_result()

    def _prepare(self, data):
        """Inputs and targets, and the number of offsets that are asked for in the whole batch, on all devices."""
        inputs, targets = self.prepare(*data) if self.prepare else data
        positives = ops.sum(ops.cast(targets["offset_weight"] > 0, "float32"))
        return inputs, targets, self._sum_over_devices(positives)

    def _gradients(self, inputs, targets, positives):
        """Gradients whose sum over all devices and parts is that of the loss of the batch.

        The optimizer's loss scale is in them.
        """
        shares = self.strategy.num_replicas_in_sync * self.accumulation

        def loss_of(outputs):
            heatmap = heatmap_loss(outputs["heatmap"], targets["heatmap"], targets["heatmap_weight"])
            if self._offsets:
                offsets = self._offsets(outputs["features"], targets)
            else:
                offsets = outputs["offset"], targets["offset"], targets["offset_weight"]
            offset = offset_loss(*offsets, positives)
            # The mean over the shares of a batch is that of the batch; the offset loss is this share's part of a sum.
            losses = self.heatmap_weight * heatmap, self.offset_weight * offset * shares
            for metric, loss in zip(self.metrics, (sum(losses), *losses), strict=True):
                metric.update_state(loss)
            return self.optimizer.scale_loss(sum(losses) / shares)

        if self._parts:
            found = recomputed_gradients(self._parts, inputs, loss_of)
            return [found[id(variable)] for variable in self.network.trainable_variables]
        with tf.GradientTape() as tape:
            network = self._offsets.features if self._offsets else self.network
            loss = loss_of(network(inputs, training=True))
        return tape.gradient(loss, self.network.trainable_variables)

    def _add_part(self, batch, part):
        inputs, targets, positives = batch

        def share(values):
            return ops.reshape(values, (self.accumulation, -1, *values.shape[1:]))[part]

        gradients = self._gradients(share(inputs), {name: share(target) for name, target in targets.items()}, positives)
        for total, gradient in zip(self._sums, gradients, strict=True):
            total.assign_add(gradient)

    def _apply_sums(self):
        self._apply([total.read_value() for total in self._sums])
        for total in self._sums:
            total.assign(tf.zeros_like(total))

    def _apply(self, gradients):
        devices = self.strategy.num_replicas_in_sync
        scaled = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        if devices > 1 and (scaled or self.optimizer.global_clipnorm):
            # Keras clips, and looks for overflows of float16, before it adds the gradients of all devices. So they
            # are added here, and each device hands on an equal share of the sum.
            gradients = [gradient / devices for gradient in self._sum_over_devices(gradients)]
        self.optimizer.apply(gradients, self.network.trainable_variables)

    def _sum_over_devices(self, values):
        if self.strategy.num_replicas_in_sync == 1:
            return values
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)

    # What follows runs once for all devices.

    def _finish(self):
        if self.averages:
            step = ops.cast(self.optimizer.iterations, "float32")
            momentum = ops.minimum(self.ema_momentum, (1 + step) / (EMA_START + step))

            def follow(average, variable):
                average.assign(momentum * average + (1 - momentum) * variable)

            for average, variable in zip(self.averages, self.network.trainable_variables, strict=True):
                self.strategy.extended.update(average.value, follow, (variable.value,))
        return self.get_metrics_result()


def _copy(variable):
    return keras.Variable(ops.convert_to_numpy(variable), trainable=False, name=f"{variable.name}_average")


def _local_sum(variable):
    """A sum of gradients, one on each device."""
    return tf.Variable(
        tf.zeros(variable.shape),
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.SUM,
    )
