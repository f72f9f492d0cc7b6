"""The fuzzer's random float graphs, under the name that the tests use."""

from deploy_arm.fuzz.float_networks import FloatBuilder, everything_float, random_convolutions, random_others

__all__ = ["FloatBuilder", "everything_float", "random_convolutions", "random_others"]
