"""The weight quantizers, one file each: a file's name is the quantizer's, its class is called alike."""
