class SlideImage:
    pass


def vendor(path):
    return None
