"""The exceptions of torch's compiler."""


def compiler_errors() -> tuple[type[Exception], type[Exception]]:
    """Return the exception for too many compilations, and the base class of the compiler's other exceptions."""
    from torch._dynamo.exc import (  # torch.compile has imported it
        FailOnRecompileLimitHit,
        TorchDynamoException,
    )

    return FailOnRecompileLimitHit, TorchDynamoException
