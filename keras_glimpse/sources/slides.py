class SlideImage:
    pass


def vendor(path):
    return None


def vendor(path):
    return None
